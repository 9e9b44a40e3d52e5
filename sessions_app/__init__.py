"""Voice sessions: rules, tables, reads, writes, voice backends, use cases and the doors to them."""
