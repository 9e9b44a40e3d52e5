"""This process as a node: its row, its heartbeat, its batcher, and the rounds that every node runs (sweep, probes).

The heartbeat is a task on the event loop, on purpose: a loop that stands still carries no audio, and must not keep slots.
A node that was taken for lost (it stood still, or could not reach the database) becomes a new node, and says so to ``on_lost``.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import psycopg
from django.conf import settings
from django.db import Error as DatabaseError

from sessions_app.models import Node
from sessions_app.runtime import prober
from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.services import health, nodes, sweep

logger = logging.getLogger(__name__)

_AWAY: Final = (DatabaseError, psycopg.Error)


class NodeRuntime:
    """One per process, see ``node_runtime``. Made without a loop; started and stopped on the loop that serves."""

    def __init__(self) -> None:
        self.id = uuid.uuid4()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.batcher = Batcher()
        self.draining = False
        self.on_lost: list[Callable[[], Awaitable[None]]] = []
        self.on_stop: list[Callable[[], Awaitable[None]]] = []
        self._registered = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the batcher and the rounds; a second call does nothing. Does not wait for the database."""
        if self._tasks:
            return
        self.batcher.start()
        rounds = (
            (self._beat, settings.VOICE_HEARTBEAT_S),
            (self._sweep, settings.VOICE_SWEEP_S),
            (self._probe, settings.VOICE_HEARTBEAT_S),
        )
        self._tasks = [asyncio.create_task(self._every(period, work)) for work, period in rounds]

    async def stop(self) -> None:
        """Stop taking sessions, end what runs (``on_stop``), write what is waiting, and take the node's row out."""
        if not self._tasks:
            return
        self.draining = True
        await asyncio.gather(*(each() for each in self.on_stop))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await asyncio.to_thread(self.batcher.stop)
        if self._registered:
            try:
                await in_thread(nodes.set_state, node_id=self.id, state=Node.State.STOPPED)
            except _AWAY as error:
                logger.warning("the node's row could not be taken out: %s", type(error).__name__)

    def ready(self) -> bool:
        """Whether a session could be admitted here now; asks the database.

        Raises:
            django.db.Error: the database is away.
        """
        if not self._registered or self.draining or not self.batcher.connected:
            return False
        return health.backend_can_be_used(stale_s=settings.VOICE_PROBE_STALE_S)

    async def _every(self, period_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        away = False
        while True:
            try:
                await work()
                away = False
            except _AWAY as error:
                if not away:
                    logger.warning("%s: the database is away: %s", work.__name__.strip("_"), type(error).__name__)
                away = True
            except Exception:
                # The rounds are what keeps slots right: one that failed is told, and the next one runs.
                logger.exception("%s failed", work.__name__.strip("_"))
            await asyncio.sleep(period_s)

    async def _beat(self) -> None:
        if not self._registered:
            await in_thread(nodes.register, node_id=self.id, name=self.name, pid=os.getpid())
            self._registered = True
            return
        if await in_thread(nodes.beat, node_id=self.id):
            return
        logger.warning("this node was taken for lost and becomes a new one", extra={"node": str(self.id)})
        fresh = uuid.uuid4()
        await in_thread(nodes.register, node_id=fresh, name=self.name, pid=os.getpid())
        self.id = fresh
        for tell in self.on_lost:
            await tell()

    async def _sweep(self) -> None:
        swept = await in_thread(sweep.sweep, holder=str(self.id))
        if swept.suspended or swept.ended:
            logger.info("swept", extra={"suspended": swept.suspended, "ended": swept.ended})

    async def _probe(self) -> None:
        await prober.probe_due(age_s=settings.VOICE_PROBE_FALLBACK_S)


_node: NodeRuntime | None = None


def node_runtime() -> NodeRuntime:
    """Return this process's node."""
    global _node  # noqa: PLW0603 - one per process, made when first needed
    if _node is None:
        _node = NodeRuntime()
    return _node
