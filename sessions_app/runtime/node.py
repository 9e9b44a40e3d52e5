"""This process as a node: its row, its heartbeat, its batcher, and the rounds that every node runs (sweep, probes).

The heartbeat is a task on the event loop, on purpose: a loop that stands still carries no audio, and must not keep slots.
A node that was taken for lost (it stood still, or could not reach the database) becomes a new node, and tells ``on_lost`` the old id.
What its sessions have to know from the database (an end that somebody asked for, another node that has taken over) they look up in
``on_look``, once a second, so that no message to this process can be missed. ``on_stop`` is told whether another node is up.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import psycopg
from django.conf import settings
from django.db import Error as DatabaseError

from sessions_app.domain.operations import Promote
from sessions_app.domain.states import Reason
from sessions_app.models import Node
from sessions_app.runtime import backends, observer, prober, reconciler, refused, room_rounds, telemetry
from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.room_keeper import Keeper
from sessions_app.runtime.room_rounds import RoomRounds
from sessions_app.services import health, nodes, sweep, waiters
from sessions_app.services.exceptions import VoiceError

logger = logging.getLogger(__name__)

PROMOTE_S: Final = 1.0  # how often somebody looks whether a waiter could start by now
COUNT_S: Final = 1.0  # how often refusals without a record are written
LOOK_S: Final = 1.0  # how often the node asks what became of its sessions
LOOK_PAUSE_S: Final = 0.1  # between two looks at least
BATCHER_STOP_S: Final = 1.0
DATABASE_PATIENCE_S: Final = 1.0  # on the way out
MAX_IDS: Final = 20  # former ids that are remembered

R = TypeVar("R")

_AWAY: Final = (DatabaseError, psycopg.Error)


class NodeRuntime:
    """One per process, see ``node_runtime``. Made without a loop; started and stopped on the loop that serves."""

    def __init__(self) -> None:
        self.id = uuid4()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.batcher = Batcher()
        self.draining = False
        self._stopping = False
        self._beat_at = 0.0  # when the database last took a heartbeat, by the monotonic clock
        self.ids = [self.id]  # every id that this process has had, the present one last
        self.on_lost: list[Callable[[UUID], Awaitable[None]]] = []
        self.on_stop: list[Callable[[bool], Awaitable[None]]] = []
        self.on_look: list[Callable[[], Awaitable[None]]] = []
        self.on_round: list[Callable[[], Awaitable[None]]] = []
        self._look_now = asyncio.Event()
        self._registered = False
        self._tasks: list[asyncio.Task[None]] = []
        keeper = Keeper(
            holder=f"{self.name}:{self.id}"[-100:],
            submit=self.batcher.submit,
            find=backends.room_provider_for,
            on_change=self._room_changed,
        )
        self.rooms = RoomRounds(keeper)

    async def start(self) -> None:
        """Start the batcher and the rounds; a second call does nothing. Does not wait for the database."""
        if self._tasks:
            return
        self.batcher.start()
        rounds = (
            (self._beat, settings.VOICE_HEARTBEAT_S),
            (self._sweep, settings.VOICE_SWEEP_S),
            (self._probe, settings.VOICE_HEARTBEAT_S),
            (self._promote, PROMOTE_S),
            (self._observe, observer.OBSERVE_S),
            (refused.write, COUNT_S),
            (self._look_after_rooms, room_rounds.ROUND_S),
            (self._watch_rooms, reconciler.WATCH_S),
            (self._reconcile, settings.VOICE_RECONCILE_FALLBACK_S / 4),
        )
        self.rooms.start()
        self._tasks = [asyncio.create_task(self._keep_looking())]
        self._tasks += [asyncio.create_task(self._every(period, work)) for work, period in rounds]

    async def stop(self) -> None:
        """Stop taking sessions, hand over or end what runs (``on_stop``), write what is waiting, and take the node's row out.

        Two nodes that stop at once cannot both count on the other: each says that it drains before it looks for others, and looks again
        when it has handed over what it had; who then finds nobody ends what is left.
        """
        if not self._tasks or self._stopping:
            return
        self._stopping = self.draining = True
        others = await self._leave()
        # Together, so that both are done in the time that a process has in all.
        await asyncio.gather(*(each(others) for each in self.on_stop), self._end_rooms(others=others))
        await self.rooms.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end_left_over()
        if self._registered:
            await self._try_to_count()
        await asyncio.to_thread(self.batcher.stop, timeout_s=BATCHER_STOP_S)
        if self._registered:
            await self._try_to(nodes.set_state, node_id=self.id, state=Node.State.STOPPED)
        self._tasks = []
        self._stopping = False

    async def _leave(self) -> bool:
        """Say that this node drains; return whether another one can take over."""
        if not self._registered:
            return False
        await self._try_to(nodes.set_state, node_id=self.id, state=Node.State.DRAINING)
        return bool(await self._try_to(nodes.others_up, node_id=self.id))

    async def _end_left_over(self) -> None:
        if self._registered and await self._try_to(nodes.others_up, node_id=self.id) is False:
            ended = await self._try_to(sweep.end_left_over, Reason.DRAINED)
            if ended:
                logger.info("the last node ended what was left", extra={"ended": ended})

    async def _try_to_count(self) -> None:
        with contextlib.suppress(*_AWAY, TimeoutError):
            async with asyncio.timeout(DATABASE_PATIENCE_S):
                await refused.write()

    async def _end_rooms(self, *, others: bool) -> None:
        """End what lives in rooms, where nobody is left to look after them."""
        if others or not self._registered:
            return
        try:
            async with asyncio.timeout(settings.VOICE_CLOSE_TIMEOUT_S):
                await self.rooms.end_all(Reason.DRAINED)
        except (*_AWAY, TimeoutError) as error:
            logger.warning("not every room could be ended on the way out: %s", type(error).__name__)

    async def _try_to(self, work: Callable[..., R], *args: Any, **kwargs: Any) -> R | None:
        """Do this on the way out, unless the database is away or slow."""
        try:
            async with asyncio.timeout(DATABASE_PATIENCE_S):
                return await in_thread(work, *args, **kwargs)
        except (*_AWAY, TimeoutError) as error:
            logger.warning("on the way out the database did not answer: %s", type(error).__name__)
            return None

    def look_now(self) -> None:
        """Look at once what became of the sessions, instead of within a second."""
        self._look_now.set()

    def ready(self) -> bool:
        """Whether a session could be admitted here now; asks the database, unless that has not answered for so long that it is away.

        Raises:
            django.db.Error: the database is away.
        """
        fresh = time.monotonic() - self._beat_at < settings.VOICE_LEASE_S
        if not self._registered or self.draining or not self.batcher.connected or not fresh:
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
            self._registered, self._beat_at = True, time.monotonic()
            return
        alive = await in_thread(nodes.beat, node_id=self.id)
        self._beat_at = time.monotonic()
        if alive:
            return
        logger.warning("this node was taken for lost and becomes a new one", extra={"node": str(self.id)})
        was, fresh = self.id, uuid4()
        await in_thread(nodes.register, node_id=fresh, name=self.name, pid=os.getpid())
        self.id = fresh
        self.ids = [*self.ids[-MAX_IDS:], fresh]
        for tell in self.on_lost:
            await tell(was)

    async def _keep_looking(self) -> None:
        async def look() -> None:
            self._look_now.clear()
            await asyncio.gather(*(each() for each in self.on_look))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._look_now.wait()

        await self._every(LOOK_PAUSE_S, look)

    async def _sweep(self) -> None:
        swept = await in_thread(sweep.sweep, holder=str(self.id))
        telemetry.leaked(swept.leaked_s)
        if swept.suspended or swept.ended:
            logger.info("swept", extra={"suspended": swept.suspended, "ended": swept.ended})

    async def _observe(self) -> None:
        await observer.observe_round(holder=str(self.id))

    async def _promote(self) -> None:
        """Let waiters in after an edit or a recovery, which end no session; one node a second is enough."""
        if await in_thread(waiters.promotion_is_due, holder=str(self.id), seconds=PROMOTE_S * 0.9):
            with contextlib.suppress(VoiceError):  # the next round asks again
                await self.batcher.submit(Promote())

    async def _look_after_rooms(self) -> None:
        await self.rooms.look()
        for count in self.on_round:
            await count()

    async def _watch_rooms(self) -> None:
        await reconciler.watch(self.rooms.keeper)

    async def _reconcile(self) -> None:
        await reconciler.reconcile_due(self.rooms.keeper, age_s=settings.VOICE_RECONCILE_FALLBACK_S, backends=backends.room_backends)

    def _room_changed(self, _: UUID) -> None:
        self.look_now()

    async def _probe(self) -> None:
        await prober.probe_due(age_s=settings.VOICE_PROBE_FALLBACK_S)


_node: NodeRuntime | None = None


def node_runtime() -> NodeRuntime:
    """Return this process's node."""
    global _node  # noqa: PLW0603 - one per process, made when first needed
    if _node is None:
        _node = NodeRuntime()
    return _node
