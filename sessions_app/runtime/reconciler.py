"""Reconcile: compare what a backend has with what the platform admitted, and put right what differs.

Owns: ``reconcile``, which asks for every room of a backend, in turn by Celery and by whichever node finds that nobody did; and ``watch``,
which one node does every second for a backend with live sessions: it looks at the list alone, and at once after those rooms that are
missing, not admitted, or whose people are not those that are known. So a server that was restarted has its rooms again before its clients
give up. One of each at a time per backend, by a claim with an expiry.
Refuses: to end anything by a list: lists lag. A missing room is made again, which is harmless; people are asked for by name.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from sessions_app.providers.base import Room, RoomProvider
from sessions_app.providers.exceptions import ProviderError
from sessions_app.runtime import room_rounds, strays
from sessions_app.runtime.database import in_room_thread as in_thread
from sessions_app.runtime.room_keeper import Keeper
from sessions_app.services import claims, rooms
from sessions_app.services.rooms import Expected

logger = logging.getLogger(__name__)

WATCH_S: Final = 1.0
WATCH_CLAIM_S: Final = 3.0
RECONCILE_CLAIM_S: Final = 60.0
SETTLE_S: Final = 2.0  # a room that was asked for this short a time ago may not be in the list yet
LAG_S: Final = 6.0  # the list's numbers of people are right after this long


async def reconcile_due(keeper: Keeper, *, age_s: float, backends: Callable[[], Awaitable[Sequence[int]]]) -> int:
    """Reconcile every backend with rooms that nobody has reconciled for so many seconds; return how many this call did.

    Raises:
        django.db.Error: the database is away.
    """
    done = 0
    for backend_id in await backends():
        name = f"reconcile:{backend_id}"
        if not await in_thread(claims.claim_due, name=name, holder=keeper.holder, seconds=RECONCILE_CLAIM_S, age_s=age_s):
            continue
        ok = False
        try:
            await compare(keeper, backend_id, every=True)
            ok = True
            done += 1
        except ProviderError as error:
            logger.warning("backend could not be reconciled", extra={"backend": backend_id, "error": str(error)})
        finally:
            # What failed is tried again after the same time, not at once: the watch does that.
            await in_thread(claims.give_back, name=name, holder=keeper.holder, done=True)
        logger.debug("reconciled", extra={"backend": backend_id, "ok": ok})
    return done


async def watch(keeper: Keeper) -> None:
    """Look at the rooms of each backend with live sessions, unless another node does.

    Raises:
        django.db.Error: the database is away.
    """
    await asyncio.gather(*(_watch(keeper, each) for each in await in_thread(rooms.backends_with_rooms)))


async def _watch(keeper: Keeper, backend_id: int) -> None:
    if not await in_thread(claims.claim, name=f"watch:{backend_id}", holder=keeper.holder, seconds=WATCH_CLAIM_S):
        return
    try:
        await compare(keeper, backend_id, every=False)
        keeper.unreachable.discard(backend_id)
    except ProviderError as error:
        # It cannot be reached: the next look, in a second, is the reconcile that it needs.
        if backend_id not in keeper.unreachable:
            logger.warning("backend cannot be asked for its rooms", extra={"backend": backend_id, "error": str(error)})
        keeper.unreachable.add(backend_id)


async def compare(keeper: Keeper, backend_id: int, *, every: bool) -> None:
    """Compare a backend's list with ours and look after what differs; ``every``: after all of our rooms there.

    Raises:
        ProviderError: It could not be asked.
        django.db.Error: the database is away.
    """
    provider = await keeper.find(backend_id)
    # The list first: what it has was written here before it was made there.
    listed = await keeper.list_rooms(provider)
    ours = await in_thread(rooms.on_backend, backend_id=backend_id, settle_s=SETTLE_S)
    by_name = {each.name: each for each in listed}
    mine = {each.name for each in ours}
    await _remove_orphans(keeper, provider, backend_id, [each for each in listed if each.name not in mine])
    over = [each.session_id for each in ours if not each.live]
    asked = [each.session_id for each in ours if each.live and (every or _differs(each, by_name.get(each.name)))]
    if every:
        await room_rounds.tend_all(keeper, over)
    await room_rounds.tend_all(keeper, asked, ask=True)


def _differs(ours: Expected, theirs: Room | None) -> bool:
    if theirs is None:
        return ours.settled
    # An agent is not counted, the user is.
    return (ours.asked_s is None or ours.asked_s > LAG_S) and ours.user_here != (theirs.participants > 0)


async def _remove_orphans(keeper: Keeper, provider: RoomProvider, backend_id: int, orphans: Sequence[Room]) -> None:
    for room in orphans:
        try:
            await strays.remove(keeper, provider, backend_id=backend_id, room=room.name, sid=room.sid, session_id=room.session_id)
        except ProviderError as error:
            logger.warning("a room could not be removed", extra={"backend": backend_id, "room": room.name, "error": str(error)})
