"""Rules in plain Python: the standard library only, no clock of their own, no network, no database."""
