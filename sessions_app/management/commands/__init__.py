"""The command edge: each reads its words, calls one service, and says what was done in one sentence."""
