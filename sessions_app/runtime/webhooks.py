"""What providers tell by webhook: the signature is checked, the event stored, and its room looked after at once, off the request's way.

Owns: which backends take webhooks, read again after ``KNOWN_S``; the counts of what was refused, written in each round, so that a flood of
forgeries costs the database one row a minute. Refuses: to make anything of an event; to keep a body, or to log it.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from sessions_app.models import Backend
from sessions_app.providers.base import RoomProvider
from sessions_app.providers.exceptions import ProviderError, WrongSignature
from sessions_app.runtime import backends, telemetry
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.gathering import Gathering
from sessions_app.runtime.node import node_runtime
from sessions_app.services import inbox
from sessions_app.services.inbox import Event

PREFIX: Final = "/webhooks/"
KNOWN_S: Final = 5.0  # how soon an edited key acts
MAX_KNOWN: Final = 1_000
# In a room of ours these change nothing that anybody waits for: they are taken in with what comes next, or after a moment.
CAN_WAIT: Final = frozenset({"room_started", "track_unpublished", "other"})
WAIT_S: Final = 1.0
MAX_STORED: Final = 100  # at once


class Received(StrEnum):
    """What became of a webhook."""

    STORED = "stored"
    REPEATED = "repeated"
    UNKNOWN = "unknown"  # no such backend
    WRONG_SIGNATURE = "wrong_signature"
    TOO_LARGE = "too_large"


@dataclass(frozen=True, slots=True)
class _Known:
    until: float
    backend_id: int
    provider: RoomProvider | None  # None: no such backend, or one that takes no webhooks


_known: Final[dict[tuple[str, str], _Known]] = {}
_refused: Final[Counter[tuple[int, str]]] = Counter()


def _this_process(session_id: UUID | None) -> None:
    node_runtime().rooms.came(session_id)


async def receive(
    *, provider: str, backend: str, body: bytes, authorization: str, tell: Callable[[UUID | None], None] = _this_process
) -> Received:
    """Check and store an event; those that come at once are stored together.

    Args:
        provider: The name of the provider that the address is for.
        backend: The backend's name.
        body: As it came.
        authorization: The header, or empty.
        tell: Called with the session that a stored event is about, so that its room is looked after at once.

    Raises:
        django.db.Error: the database is away; the provider tries again.
    """
    known = await _find(provider, backend)
    if known.provider is None:
        return Received.UNKNOWN
    try:
        told = known.provider.verify_webhook(body, authorization)
    except WrongSignature:
        return _refuse(known.backend_id, backend, Received.WRONG_SIGNATURE)
    event = known.provider.read_event(told)
    can_wait = event.kind in CAN_WAIT
    # An event without an id cannot be told from its repetitions; what it says is harmless when it is said twice.
    event_id = event.id or f"none-{event.name}-{event.room_sid}-{time.time_ns()}"
    is_new = await _stored.ask(
        Event(known.backend_id, event_id, event.name, event.room, event.session_id, told, wait_s=WAIT_S if can_wait else 0.0)
    )
    outcome = Received.STORED if is_new else Received.REPEATED
    telemetry.webhook(outcome.value, backend)
    if is_new:
        tell(None if can_wait else event.session_id)
    return outcome


async def too_large(*, provider: str, backend: str) -> Received:
    """Count a body that was not read because of its size.

    Raises:
        django.db.Error: the database is away.
    """
    known = await _find(provider, backend)
    if known.provider is None:
        return Received.UNKNOWN
    return _refuse(known.backend_id, backend, Received.TOO_LARGE)


async def _store(events: Sequence[Event]) -> list[bool]:
    return await in_thread(inbox.store, events)


_stored: Final[Gathering[Event, bool]] = Gathering(_store, most=MAX_STORED)


def address(*, provider: str, backend: str) -> str:
    """Return the path that a backend's webhooks go to."""
    return f"{PREFIX}{provider}/{backend}/"


def take_refused() -> dict[tuple[int, str], int]:
    """Return how many were refused since the last call, by backend and reason."""
    counts = dict(_refused)
    _refused.clear()
    return counts


def forget() -> None:
    """Read every backend again when it is next asked for."""
    _known.clear()


def _refuse(backend_id: int, backend: str, outcome: Received) -> Received:
    telemetry.webhook(outcome.value, backend)
    _refused[backend_id, outcome.value] += 1
    return outcome


async def _find(provider: str, name: str) -> _Known:
    """Return the backend behind an address; its provider is this module's own, and never asked anything over the network."""
    now = time.monotonic()
    known = _known.get((provider, name))
    if known is not None and known.until > now:
        return known
    backend_id, made = await in_thread(_read, provider, name)
    known = _Known(now + KNOWN_S, backend_id, made)
    if len(_known) >= MAX_KNOWN:
        _known.clear()
    _known[provider, name] = known
    return known


def _read(provider: str, name: str) -> tuple[int, RoomProvider | None]:
    row = Backend.objects.filter(name=name[:50], provider=provider).first()
    if row is None:
        return 0, None
    try:
        found = backends.create(row)
    except ProviderError:
        return row.pk, None  # its probes say what is wrong with it
    return row.pk, found if isinstance(found, RoomProvider) else None
