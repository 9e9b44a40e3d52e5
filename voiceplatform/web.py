"""The web server: ``python -m voiceplatform.web`` serves ``voiceplatform.asgi`` with uvicorn.

Owns: how uvicorn is set up. It holds back on slow readers, and at SIGTERM closes WebSockets with 1012 and waits for the consumers.
No log configuration of its own: Django's formats its lines too. Limits: one process, one event loop; more are more of these.
"""

import argparse

import uvicorn

from voiceplatform import env

LARGEST_MESSAGE = 65_536  # bytes of one WebSocket message
BACKLOG = 4096  # connections that wait to be accepted: a crowd that comes at once
GRACE_S = 30  # for open connections at SIGTERM


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m voiceplatform.web", description="Serve the web pages, the API and the WebSocket.")
    parser.add_argument("--host", default=env.text("VOICE_BIND", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=env.integer("PORT", 8000, minimum=1, maximum=65_535))
    options = parser.parse_args()
    uvicorn.run(
        "voiceplatform.asgi:application",
        host=options.host,
        port=options.port,
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_max_size=LARGEST_MESSAGE,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_S,
        access_log=False,
        log_config=None,
    )


if __name__ == "__main__":
    main()
