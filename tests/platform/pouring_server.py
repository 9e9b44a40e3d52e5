"""A web server of the product with another application: a WebSocket that pours out as fast as it may, and a page that says how much.

Run as ``python -m tests.platform.pouring_server SERVER FD``.
"""

import asyncio
import importlib
import sys
from typing import Any

from voiceplatform import listening, web

poured = 0


async def pour(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Send without end; at ``/leave`` give up, without a close, on a client that does not read for half a second."""
    global poured
    await receive()
    await send({"type": "websocket.accept"})
    patience = 0.5 if scope["path"] == "/leave" else None
    try:
        while True:
            async with asyncio.timeout(patience):
                await send({"type": "websocket.send", "bytes": bytes(65_536)})
            poured += 65_536
            await asyncio.sleep(0)
    except (TimeoutError, OSError):
        return


async def tell(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Answer how many bytes were sent."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(poured).encode()})


async def no_node() -> None:
    """Start nothing: there is no database here."""


def main() -> None:
    server = importlib.import_module(web.SERVERS[sys.argv[1]])
    asgi = server.asgi
    asgi.websocket_application, asgi.django_application, asgi.start = pour, tell, no_node
    server.serve(listening.inherited(int(sys.argv[2])), lambda: None)


if __name__ == "__main__":
    main()
