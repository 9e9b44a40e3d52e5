"""Tests: one behaviour a file; run by `make test`."""
