"""uvicorn, as this project runs it: it holds back on slow readers, pings its clients, and drains before it shuts down.

Owns: uvicorn's options and the order of its end. uvicorn by itself closes WebSockets with 1012 as soon as it is told to stop, and
accepts no more; here it goes on serving until every session is handed over and every client was told, and only then does that.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

from voiceplatform import asgi
from voiceplatform.listening import BACKLOG
from voiceplatform.stopping import Stop
from voiceplatform.uvicorn_socket import FairHttp, FairSocket

LARGEST_MESSAGE: Final = 65_536  # bytes of one WebSocket message
GRACE_S: Final = 1  # for what is left after the drain


def serve(listener: socket.socket, ready: Callable[[], None]) -> bool:
    """Serve until a signal.

    Args:
        listener: where connections come from.
        ready: called once they are served.

    Returns:
        Whether there was time to stop in order.
    """
    config = uvicorn.Config(
        asgi.application,
        loop="uvloop",
        http=FairHttp,
        ws=FairSocket,
        ws_per_message_deflate=False,
        ws_max_size=LARGEST_MESSAGE,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_S,
        access_log=False,
        log_config=None,
    )
    server = _Server(config, ready)
    server.run(sockets=[listener])
    return not server.stop.hurried


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.stop = Stop(self._begin_stop)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals; unlike the original's, they are not raised again at the end, which would kill the process before it is done."""
        self.stop.listen(asyncio.get_running_loop())
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then shut down."""
        await self.stop.unless_hurried(asgi.drain())
        self.force_exit = self.stop.hurried
        await super().shutdown(sockets)

    def _begin_stop(self) -> None:
        self.should_exit = True
