"""Tenants: what the database, the commands and the admin let through, and what not."""
