"""What a client's connection has to know of its session's room: asked with the session's fate, once a second for all of a node's."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import connection

from sessions_app.domain.states import Reason

_NOW: Final = """
SELECT r.session_id, r.backend_id, b.name, b.provider, r.generation, p.state = 'active'
FROM sessions_app_room r JOIN sessions_app_backend b ON b.id = r.backend_id JOIN sessions_app_slot p USING (session_id)
WHERE r.session_id = ANY(%s) AND r.closed_at IS NULL"""
_OUTCOME: Final = """
SELECT reason, coalesce(extract(epoch FROM ended_at - active_at), 0)::float8 FROM sessions_app_session
WHERE id = %s AND ended_at IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class RoomNow:
    """One live session's room: where it is, how often it was made, whether its user is there."""

    session_id: UUID
    backend_id: int
    backend: str
    provider: str
    generation: int
    active: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session ended, and for how many seconds it was active."""

    reason: Reason
    active_s: float


def now(*, session_ids: Collection[UUID]) -> list[RoomNow]:
    """Return the rooms of those of these sessions that are live."""
    if not session_ids:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_NOW, (list(session_ids),))
        return [RoomNow(*row) for row in cursor.fetchall()]


def outcome(*, session_id: UUID) -> Outcome | None:
    """Return how a session ended; None while it has not."""
    with connection.cursor() as cursor:
        cursor.execute(_OUTCOME, (session_id,))
        row = cursor.fetchone()
        return Outcome(Reason(row[0]), row[1]) if row and row[0] else None
