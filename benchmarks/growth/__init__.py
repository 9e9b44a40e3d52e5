"""``growth``: what history, live sessions, tenants and long queues cost an admission."""
