"""What became of the sessions that a node believes to carry: asked once a second, so that nothing else has to reach it.

Refuses: to write. Limits: one query for all of a node's sessions; it returns only those that something became of.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import connection

from sessions_app.domain.states import Reason

_FATES: Final = """
SELECT mine.id, s.session_id IS NOT NULL, coalesce(e.reason, r.reason, ''), coalesce(e.detail, ''), coalesce(e.actor, '')
FROM unnest(%(sessions)s::uuid[]) AS mine(id)
LEFT JOIN sessions_app_slot s ON s.session_id = mine.id
LEFT JOIN sessions_app_endrequest e ON e.session_id = mine.id
LEFT JOIN sessions_app_session r ON s.session_id IS NULL AND r.id = mine.id
WHERE s.session_id IS NULL OR e.session_id IS NOT NULL OR s.node_id IS NULL OR s.node_id <> ALL(%(nodes)s)"""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one session.

    ``reason`` is set where it should end, or has ended (``held`` is False then); without one another node has it.
    """

    session_id: UUID
    held: bool
    reason: Reason | None
    detail: str
    actor: str


def fates(*, session_ids: Collection[UUID], node_ids: Collection[UUID]) -> list[Fate]:
    """Return those of the sessions that a node, under any of its ids, has no more or should end."""
    if not session_ids:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_FATES, {"sessions": list(session_ids), "nodes": list(node_ids)})
        return [Fate(row[0], row[1], Reason(row[2]) if row[2] else None, row[3], row[4]) for row in cursor.fetchall()]
