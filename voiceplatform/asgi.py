"""The ASGI application: HTTP to Django, WebSocket to the consumers, and the node that starts and stops with the server.

uvicorn tells of its start and stop by lifespan; a server that does not (daphne) starts the node with its first connection.
"""

import os
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.core.asgi import get_asgi_application

from voiceplatform import telemetry

# Static files are streamed from open files, which Django warns about under ASGI once a request. They are few and small, browsers keep
# them, and a proxy may serve them instead.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceplatform.settings")
telemetry.start("web")
django_application: Any = get_asgi_application()

from channels.routing import URLRouter  # noqa: E402 - Django has to be set up first

from sessions_app.runtime.node import node_runtime  # noqa: E402
from sessions_app.transport.routing import websocket_urlpatterns  # noqa: E402

websocket_application: Any = URLRouter(websocket_urlpatterns)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Route one connection."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await node_runtime().start()
    if scope["type"] == "websocket":
        await websocket_application(scope, receive, send)
    else:
        await django_application(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await node_runtime().start()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await node_runtime().stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
