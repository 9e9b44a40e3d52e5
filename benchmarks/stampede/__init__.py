"""``stampede``: everybody comes at the same moment, to a real web server."""
