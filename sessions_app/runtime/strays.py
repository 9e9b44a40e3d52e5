"""Events and rooms that belong to no session: what they tell of is removed where nobody was admitted, and recorded.

A room that no session admitted is how somebody comes in past the platform: with a token that is still good after its session's end, where
the server makes rooms by itself. Refuses: rooms of sessions that hold a slot, which their keeper looks after, also where they are on
another backend: two of them may share a server.
"""

import asyncio
import logging
from enum import StrEnum
from typing import Final
from uuid import UUID

from django.conf import settings

from sessions_app.models import Drift
from sessions_app.providers.base import RoomProvider
from sessions_app.providers.exceptions import ProviderError
from sessions_app.runtime import telemetry
from sessions_app.runtime.database import in_room_thread as in_thread
from sessions_app.runtime.room_keeper import Keeper
from sessions_app.services import inbox, rooms

logger = logging.getLogger(__name__)

BATCH: Final = 100
MAX_TRIES: Final = 20  # then the reconcile alone goes on with it
_OPENS: Final = frozenset({"room_started", "participant_joined"})


class Found(StrEnum):
    """What became of a room that a backend told of; each but the last is what is written of the event that told."""

    REMOVED = "No session admitted this room: removed."
    GONE = "No session has this room; it is gone."
    ELSEWHERE = "Of a session on another backend."
    OURS = ""


async def sort(keeper: Keeper) -> int:
    """Deal with the stored events of no room that is looked after, and return how many there were.

    Raises:
        django.db.Error: the database is away.
    """
    found = await in_thread(inbox.strays, most=BATCH)
    verdicts: list[tuple[int, str]] = []
    for each in found:
        try:
            provider = await keeper.find(each.backend_id)
            event = provider.read_event(each.body)
            if event.kind not in _OPENS or not event.room:
                verdicts.append((each.id, "Of a room that is closed." if event.room else "Of no room."))
                continue
            became = await remove(
                keeper, provider, backend_id=each.backend_id, room=event.room, sid=event.room_sid, session_id=event.session_id
            )
        except ProviderError as error:
            await in_thread(inbox.tried, event_id=each.id, verdict=str(error), give_up=MAX_TRIES)
            continue
        if became is not Found.OURS:  # what is ours by now is its keeper's
            verdicts.append((each.id, became.value))
    await in_thread(inbox.processed, verdicts=verdicts)
    return len(found)


async def remove(keeper: Keeper, provider: RoomProvider, *, backend_id: int, room: str, sid: str, session_id: UUID | None) -> Found:
    """Remove a room that no session has, and record it where it was there. Return what became of it.

    Raises:
        ProviderError: It may be there still.
        django.db.Error: the database is away.
    """
    listed = await keeper.list_rooms(provider)
    home = await in_thread(rooms.live_on, name=room, session_id=session_id)
    if home is not None:
        return Found.OURS if home == backend_id else Found.ELSEWHERE
    try:
        async with asyncio.timeout(settings.VOICE_CLOSE_TIMEOUT_S):
            await provider.remove_room(room)
    except TimeoutError:
        raise ProviderError("it did not remove a room in time.") from None
    there = next((each for each in listed if each.name == room), None)
    if there is None:
        return Found.GONE
    recorded = await in_thread(
        inbox.drifted,
        kind=Drift.Kind.ORPHAN_ROOM,
        backend_id=backend_id,
        room=room,
        sid=there.sid or sid,
        session_id=session_id,
        detail="removed",
    )
    if recorded:
        telemetry.drifted(Drift.Kind.ORPHAN_ROOM.value, str(backend_id))
        logger.warning("a room that no session admitted was removed", extra={"backend": backend_id, "room": room})
    return Found.REMOVED
