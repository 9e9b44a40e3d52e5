"""When rooms are looked after: at once where something came in, and in rounds for what is due, whoever was to do it.

Owns: this process's queue of rooms to look after, and the few that are looked after at the same time. Refuses: knowing why.
Limits: ``MAX_QUEUED`` rooms wait here; those beyond are due in the database all the same, for the next round of any process.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Final
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import Error as DatabaseError

from sessions_app.domain.states import Reason
from sessions_app.runtime import strays
from sessions_app.runtime.database import in_room_thread as in_thread
from sessions_app.runtime.room_keeper import Keeper
from sessions_app.services import ending, rooms

logger = logging.getLogger(__name__)

AT_ONCE: Final = 16
MAX_QUEUED: Final = 10_000
ROUND_S: Final = 0.5
BATCH: Final = 200
_AWAY: Final = (DatabaseError, psycopg.Error)


class RoomRounds:
    """One process's; made anywhere, started and stopped on the loop that serves."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: dict[UUID, bool] = {}  # in order; whether the provider is to be asked
        self._strays_came = False
        self._more = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look after what is queued."""
        self._loop = asyncio.get_running_loop()
        self._workers = [self._loop.create_task(self._work()) for _ in range(AT_ONCE)]
        self._workers.append(self._loop.create_task(self._sort_strays()))

    async def stop(self) -> None:
        """Stop, with what is being looked after done or given back; what is not done stays due."""
        self._queue.clear()
        for task in self._workers:
            task.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers, self._loop = [], None

    def came(self, session_id: UUID | None) -> None:
        """Look soon after a session's room, of which something was stored; None: after what concerns no room of ours. From any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: another process does it
                self._loop.call_soon_threadsafe(self._note, session_id)

    def _note(self, session_id: UUID | None) -> None:
        # An event of a session's name may be of a room that is no (longer) ours.
        self._strays_came = True
        if session_id is not None:
            self.put([session_id])
        self._more.set()

    def put(self, session_ids: Iterable[UUID], *, ask: bool = False) -> None:
        """Queue rooms; on the loop. ``ask``: their provider is asked who is there."""
        for each in session_ids:
            if len(self._queue) < MAX_QUEUED:
                self._queue[each] = self._queue.get(each, False) or ask
        self._more.set()

    async def look(self) -> None:
        """One round: what is due, and what concerns no room of ours.

        Raises:
            django.db.Error: the database is away.
        """
        await in_thread(rooms.abandoned, silent_s=settings.VOICE_LOST_GRACE_S)
        self.put(await in_thread(rooms.due, most=BATCH))
        self._strays_came = True
        self._more.set()

    async def end_all(self, reason: Reason) -> None:
        """End every session that lives in a room: nobody will be there to look after them.

        Raises:
            django.db.Error: the database is away.
        """
        ids = await in_thread(ending.decide_for_all, reason=reason)
        await in_thread(rooms.stir, session_ids=ids)
        await tend_all(self.keeper, ids)

    async def _work(self) -> None:
        while True:
            while not self._queue:
                self._more.clear()
                await self._more.wait()
            session_id = next(iter(self._queue))
            ask = self._queue.pop(session_id)
            with contextlib.suppress(*_AWAY):  # it stays due
                await _safely(self.keeper, session_id, ask=ask)

    async def _sort_strays(self) -> None:
        while True:
            while not self._strays_came:
                self._more.clear()
                await self._more.wait()
            self._strays_came = False
            try:
                await strays.sort(self.keeper)
            except _AWAY:
                continue  # the next round asks again
            except Exception:
                logger.exception("events of no room could not be sorted")


async def tend_all(keeper: Keeper, session_ids: Iterable[UUID], *, ask: bool = False) -> None:
    """Look after these rooms, a few at the same time, and return when all were.

    Raises:
        django.db.Error: the database is away.
    """
    few = asyncio.Semaphore(AT_ONCE)

    async def one(session_id: UUID) -> None:
        async with few:
            await _safely(keeper, session_id, ask=ask)

    await asyncio.gather(*(one(each) for each in session_ids))


async def _safely(keeper: Keeper, session_id: UUID, *, ask: bool) -> None:
    """One room that nobody understands must not keep the others from being looked after."""
    try:
        await keeper.tend(session_id, ask=ask)
    except _AWAY:
        raise
    except Exception:
        logger.exception("a room could not be looked after", extra={"session": str(session_id)})
