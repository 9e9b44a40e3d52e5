"""Who may talk, and how much. Knows nothing of sessions."""
