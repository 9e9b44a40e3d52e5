"""What became of the sessions that a node believes to carry: asked once a second, so that nothing else has to reach it.

Refuses: to write. Limits: one query for all of a node's sessions; it returns only those that something became of.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import connection

from sessions_app.domain.states import Reason

_FATES: Final = """
SELECT mine.id, s.session_id IS NOT NULL OR w.session_id IS NOT NULL, s.session_id IS NOT NULL AND mine.waits,
       coalesce(s.node_id, w.node_id) = ANY(%(nodes)s), coalesce(e.reason, r.reason, ''), coalesce(e.detail, ''), coalesce(e.actor, '')
FROM unnest(%(sessions)s::uuid[], %(waits)s::boolean[]) AS mine(id, waits)
LEFT JOIN sessions_app_slot s ON s.session_id = mine.id
LEFT JOIN sessions_app_waiter w ON w.session_id = mine.id
LEFT JOIN sessions_app_endrequest e ON e.session_id = mine.id
LEFT JOIN sessions_app_session r ON s.session_id IS NULL AND w.session_id IS NULL AND r.id = mine.id
WHERE (s.session_id IS NULL AND w.session_id IS NULL) OR e.session_id IS NOT NULL OR (s.session_id IS NOT NULL AND mine.waits)
   OR coalesce(s.node_id, w.node_id) IS NULL OR coalesce(s.node_id, w.node_id) <> ALL(%(nodes)s)"""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one session.

    ``reason`` is set where it should end, or has ended (``held`` is False then). ``promoted``: it waited, and has a slot now. ``ours``
    is False where another node has it.
    """

    session_id: UUID
    held: bool
    promoted: bool
    ours: bool
    reason: Reason | None
    detail: str
    actor: str


def fates(*, waits: Mapping[UUID, bool], node_ids: Collection[UUID]) -> list[Fate]:
    """Return those of a node's sessions that something became of.

    Args:
        waits: Of each session that the node believes to have, whether it believes it to be in the queue.
        node_ids: All ids that the node has had.
    """
    if not waits:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_FATES, {"sessions": list(waits), "waits": list(waits.values()), "nodes": list(node_ids)})
        return [Fate(row[0], row[1], row[2], bool(row[3]), Reason(row[4]) if row[4] else None, row[5], row[6]) for row in cursor.fetchall()]
