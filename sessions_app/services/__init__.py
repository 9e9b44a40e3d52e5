"""Writes: each one transaction and no network."""
