"""The ASGI application: HTTP to Django, webhooks to their door, WebSocket to the consumers; and the node, which starts and stops with it.

``python -m voiceplatform.web`` starts the node before the first connection and drains it before the server shuts down, with every server.
Under another way of serving, lifespan does both; a server without it starts the node with its first connection, and drains nothing.
"""

import asyncio
import contextlib
import logging
import os
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from django.core.asgi import get_asgi_application

from voiceplatform import telemetry

# Static files are streamed from open files, which Django warns about under ASGI once a request. They are few and small, browsers keep
# them, and a proxy may serve them instead.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceplatform.settings")
telemetry.start("web")
django_application: Any = get_asgi_application()

from channels.routing import URLRouter  # noqa: E402 - Django has to be set up first

from sessions_app.api.webhooks import application as webhooks  # noqa: E402
from sessions_app.runtime import backends  # noqa: E402
from sessions_app.runtime.node import node_runtime  # noqa: E402
from sessions_app.runtime.webhooks import PREFIX  # noqa: E402
from sessions_app.transport import close_codes  # noqa: E402
from sessions_app.transport.routing import websocket_urlpatterns  # noqa: E402

websocket_application: Any = URLRouter(websocket_urlpatterns)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Together less than what a process has in all, see ``voiceplatform.stopping``.
DRAIN_S: Final = 8.0  # for the sessions: handed over, or ended
FLUSH_S: Final = 0.5  # for what is still being said, then again for goodbyes; at last ``backends.CLOSE_S`` for the providers

logger = logging.getLogger(__name__)

_sockets: Final[set[asyncio.Task[Any]]] = set()
_requests: Final[set[asyncio.Task[Any]]] = set()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Route one connection."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await start()
    task = asyncio.current_task()
    assert task is not None
    served = _sockets if scope["type"] == "websocket" else _requests
    served.add(task)
    try:
        if scope["type"] == "websocket":
            await _serve_socket(scope, receive, send)
        elif scope["path"].startswith(PREFIX):
            await webhooks(scope, receive, send)
        else:
            await django_application(scope, receive, send)
    finally:
        served.discard(task)


async def start() -> None:
    """Start the node, if it neither runs nor has been told to stop."""
    if not node_runtime().draining:
        await node_runtime().start()


async def drain() -> None:
    """Leave nobody without a word: hand over or end every session, let what is being said be said, and close every socket with 4012.

    The server has to go on serving meanwhile, for new attempts are told why they are refused. Bounded, whatever clients and stores do.
    """
    try:
        async with asyncio.timeout(DRAIN_S):
            await node_runtime().stop()
    except TimeoutError:
        logger.warning("the drain is not done", extra={"seconds": DRAIN_S})
    except Exception:
        # The server shuts down in any case, and others give back what this process held.
        logger.exception("the drain failed")
    if served := _sockets | _requests:
        await asyncio.wait(served, timeout=FLUSH_S)
    # Sockets that have no session, or do not read.
    if left := set(_sockets):
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=FLUSH_S)
    await backends.aclose()


async def _serve_socket(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await websocket_application(scope, receive, send)
    except asyncio.CancelledError:
        if not node_runtime().draining:
            raise
        # OSError: it is gone. RuntimeError: it was closed already.
        with contextlib.suppress(OSError, RuntimeError):
            await send({"type": "websocket.close", "code": close_codes.GOING_AWAY})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await start()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await node_runtime().stop()
            await backends.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
