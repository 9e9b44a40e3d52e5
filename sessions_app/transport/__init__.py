"""The WebSocket edge: parses, calls the runner, serialises."""
