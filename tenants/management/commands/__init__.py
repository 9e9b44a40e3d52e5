"""One module per command, each a door to one service."""
