"""Sessions that live in rooms, on a real livekit-server, with real people in them."""
