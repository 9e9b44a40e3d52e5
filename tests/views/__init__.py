"""Pages, as a browser asks for them, on a real database."""
