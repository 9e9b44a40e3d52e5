"""The HTTP edge for tenants' servers."""
