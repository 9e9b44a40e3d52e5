"""Rooms for a process without an event loop of its own: providers are made for one call and closed after it; the ledger has a connection
of its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

from sessions_app.domain.operations import Operation
from sessions_app.providers.base import Room, RoomProvider
from sessions_app.runtime import backends, reconciler, room_rounds, strays
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.room_keeper import Keeper
from sessions_app.services import ledger_once, rooms

BATCH: Final = 100


async def reconcile_due_once(*, holder: str, age_s: float) -> int:
    """Reconcile every backend that is due, and return how many were.

    Raises:
        django.db.Error: the database is away.
    """
    async with _keeper(holder) as keeper:
        return await reconciler.reconcile_due(keeper, age_s=age_s, backends=backends.room_backends)


async def look_once(*, holder: str) -> int:
    """Look after the rooms that are due and sort events of no room; return how many there were.

    Raises:
        django.db.Error: the database is away.
    """
    async with _keeper(holder) as keeper:
        due = await in_thread(rooms.due, most=BATCH)
        await room_rounds.tend_all(keeper, due)
        return len(due) + await strays.sort(keeper)


async def list_once(*, backend_id: int) -> Sequence[Room]:
    """Return the rooms that a backend's provider has now.

    Raises:
        ProviderError: it could not be asked, or makes no rooms.
        django.db.Error: the database is away.
    """
    async with _keeper("list") as keeper:
        return await keeper.list_rooms(await keeper.find(backend_id))


@asynccontextmanager
async def _keeper(holder: str) -> AsyncIterator[Keeper]:
    made: dict[int, RoomProvider] = {}

    async def find(backend_id: int) -> RoomProvider:
        if backend_id not in made:
            made[backend_id] = backends.with_rooms(backends.create(await backends.load(backend_id)))
        return made[backend_id]

    async def submit(operation: Operation) -> Any:
        return await in_thread(ledger_once.apply, operation)

    try:
        yield Keeper(holder=f"{holder}:{uuid4()}"[:100], submit=submit, find=find)
    finally:
        await asyncio.gather(*(each.aclose() for each in made.values()), return_exceptions=True)
