"""LiveKit beyond the provider contract: rooms, tokens, webhooks and the echo agent, against a real livekit-server."""
