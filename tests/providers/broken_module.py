"""A provider's module that cannot be imported, and whose error tells too much."""

raise ValueError("hush-hush")
