"""Fifty sessions at once, over WebRTC, against a real livekit-server."""
