"""This process's sessions, put together from its node and its backends.

Owns: what a backend is opened with, and what happens to the sessions when the node stops or was taken for lost.
Limits: a tenant's slug is remembered for as long as the process lives, for ``MAX_SLUGS`` tenants.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sessions_app.domain.operations import Admitted, Promoted
from sessions_app.providers.exceptions import ProviderNotFound
from sessions_app.runtime import backends, webhooks
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.node import NodeRuntime, node_runtime
from sessions_app.runtime.provider_side import Opening
from sessions_app.runtime.sessions import Sessions
from sessions_app.selectors import carried, places, rooms
from sessions_app.services import inbox
from tenants.models import Tenant

MAX_SLUGS: Final = 10_000
STOP_S: Final = 6.5  # closing the providers takes 5 s at most, and the ledger is told

_slugs: Final[dict[int, str]] = {}
_sessions: Sessions | None = None


def process_sessions() -> Sessions:
    """Return the sessions of this process; they end with its node."""
    global _sessions  # noqa: PLW0603 - one per process, made when first needed
    if _sessions is None:
        _sessions = sessions_of(node_runtime())
    return _sessions


def sessions_of(node: NodeRuntime) -> Sessions:
    """Return sessions for a node that has none yet; what the node learns, they are told."""
    sessions = Sessions(home=node, find=find_opening)

    async def stop(others: bool) -> None:
        await sessions.stop_all(hand_over=others, timeout_s=STOP_S)

    async def move(was: UUID) -> None:
        sessions.move_to(node.id, was=was)

    async def look() -> None:
        await sessions.look(
            lambda waits: in_thread(carried.fates, waits=waits, node_ids=node.ids),
            lambda ids: in_thread(places.of, session_ids=ids),
            lambda ids: in_thread(rooms.now, session_ids=ids),
        )

    loop = asyncio.get_running_loop()

    def promoted(who: Sequence[Promoted]) -> None:
        # From the batcher's thread; a loop that is closed has nobody to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(sessions.promoted, who)

    async def count() -> None:
        counts = webhooks.take_refused()
        if counts:
            await in_thread(inbox.refused, counts=counts)

    node.batcher.on_promoted = promoted
    node.on_round.append(count)
    node.on_stop.append(stop)
    node.on_lost.append(move)
    node.on_look.append(look)
    return sessions


async def find_opening(admitted: Admitted, tenant_id: int) -> Opening:
    """Return what the backend of an admitted session is opened with.

    Raises:
        ProviderError: The backend is gone, or its provider or configuration is wrong.
    """
    if admitted.backend is None:
        raise ProviderNotFound("the session has no backend.")
    backend = await backends.load(admitted.backend.id)
    model = backend.pipelines.get(admitted.pipeline) or {}
    return Opening(provider=backends.provider_of(backend), tenant=await _slug(tenant_id), model=model)


async def _slug(tenant_id: int) -> str:
    slug = _slugs.get(tenant_id)
    if slug is None:
        slug = await in_thread(lambda: Tenant.objects.values_list("slug", flat=True).get(pk=tenant_id))
        if len(_slugs) < MAX_SLUGS:
            _slugs[tenant_id] = slug
    return slug
