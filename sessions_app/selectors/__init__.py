"""Reads: each module answers one kind of question; none of them writes."""
