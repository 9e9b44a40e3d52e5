"""The command edge of the composition root."""
