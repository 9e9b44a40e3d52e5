"""HTML pages for end users and ops, and the health checks."""
