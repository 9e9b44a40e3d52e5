"""Use cases that need a provider and the database."""
