"""The inbox of what providers tell by webhook: stored first, once for each id, and each with what was made of it.

Owns: the rows, and that a room which one tells of is looked after at once. Refuses: deciding what an event means; secrets, which whoever
checked the signature has taken out.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.db import connection

from sessions_app.models import Drift

MAX_REPLAYED: Final = 500

# One statement: a row that is stored is one whose room is due. Ids are in the order of arrival.
_STORE: Final = """
WITH told AS (
    SELECT * FROM unnest(%(backend)s::bigint[], %(event)s::text[], %(name)s::text[], %(room)s::text[], %(session)s::uuid[],
                         %(body)s::jsonb[], %(wait)s::float8[]) WITH ORDINALITY
        AS v(backend, event, name, room, session, body, wait, number)),
stored AS (
    INSERT INTO sessions_app_webhookevent (backend_id, event_id, name, room, session_id, body, received_at, verdict)
    SELECT backend, event, name, room, session, body, clock_timestamp(), '' FROM told ORDER BY number
    ON CONFLICT (backend_id, event_id) DO NOTHING RETURNING backend_id, event_id),
stirred AS (
    UPDATE sessions_app_room r SET due_at = t.at FROM (
        SELECT told.session, told.backend, clock_timestamp() + make_interval(secs => min(told.wait)) AS at
        FROM told JOIN stored ON stored.backend_id = told.backend AND stored.event_id = told.event GROUP BY told.session, told.backend) AS t
    WHERE r.session_id = t.session AND r.backend_id = t.backend AND r.closed_at IS NULL AND (r.due_at IS NULL OR r.due_at > t.at)
    RETURNING 1)
SELECT backend_id, event_id FROM stored"""
# Events of no room that the platform looks after: of others' rooms, or of rooms that are closed.
_STRAYS: Final = """
SELECT w.id, w.backend_id, w.body FROM sessions_app_webhookevent w
WHERE w.processed_at IS NULL AND NOT EXISTS (
    SELECT FROM sessions_app_room r WHERE r.session_id = w.session_id AND r.backend_id = w.backend_id AND r.closed_at IS NULL)
ORDER BY w.id LIMIT %s"""
_VERDICTS: Final = """
UPDATE sessions_app_webhookevent w SET processed_at = clock_timestamp(), verdict = v.verdict, attempts = attempts + 1
FROM unnest(%s::bigint[], %s::text[]) AS v(id, verdict) WHERE w.id = v.id AND w.processed_at IS NULL"""
_TRIED: Final = """
UPDATE sessions_app_webhookevent SET attempts = attempts + 1, verdict = %(verdict)s,
    processed_at = CASE WHEN attempts + 1 >= %(most)s THEN clock_timestamp() END
WHERE id = %(id)s AND processed_at IS NULL"""
_REPLAY: Final = """
WITH again AS (
    UPDATE sessions_app_webhookevent SET processed_at = NULL, verdict = '', attempts = 0 WHERE id = ANY(%(ids)s)
    RETURNING session_id, backend_id),
stirred AS (UPDATE sessions_app_room r SET due_at = clock_timestamp() FROM again
    WHERE r.session_id = again.session_id AND r.backend_id = again.backend_id AND r.closed_at IS NULL RETURNING 1)
SELECT count(*) FROM again"""
_REFUSED: Final = """
INSERT INTO sessions_app_webhookrefusal AS c (backend_id, minute, reason, count)
SELECT v.backend, date_trunc('minute', clock_timestamp()), v.reason, v.count
FROM unnest(%s::bigint[], %s::text[], %s::int[]) AS v(backend, reason, count) JOIN sessions_app_backend b ON b.id = v.backend
ON CONFLICT (backend_id, minute, reason) DO UPDATE SET count = c.count + excluded.count"""
_DRIFTED: Final = """
INSERT INTO sessions_app_drift (kind, backend_id, room, sid, participant, session_id, detail, at)
VALUES (%s, %s, %s, %s, %s, %s, %s, clock_timestamp()) ON CONFLICT (backend_id, kind, room, sid) DO NOTHING"""


@dataclass(frozen=True, slots=True)
class Stray:
    """A stored event that belongs to no room of ours."""

    id: int
    backend_id: int
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Event:
    """What a provider told.

    Attributes:
        backend_id: Whose word it is.
        event_id: Tells it from all others of this backend.
        name: As the provider calls its kind.
        room: The room's name.
        session_id: Whose room it is, by its name.
        body: All of it, without secrets.
        wait_s: The room is due after so many seconds.
    """

    backend_id: int
    event_id: str
    name: str
    room: str
    session_id: UUID | None
    body: Mapping[str, object]
    wait_s: float = 0.0


def store(events: Sequence[Event]) -> list[bool]:
    """Store events in their order; False for each that has been stored before.

    Raises:
        django.db.Error: the database is away; the provider tries again.
    """
    keys = [(each.backend_id, each.event_id[:100]) for each in events]
    columns: dict[str, Any] = {
        "backend": [backend_id for backend_id, _ in keys],
        "event": [event_id for _, event_id in keys],
        "name": [each.name[:50] for each in events],
        "room": [each.room[:128] for each in events],
        "session": [each.session_id for each in events],
        "wait": [each.wait_s for each in events],
        "body": [json.dumps(each.body).replace("\\u0000", "") for each in events],
    }
    with connection.cursor() as cursor:
        cursor.execute(_STORE, columns)
        new = {(row[0], row[1]) for row in cursor.fetchall()}
    answers: list[bool] = []
    for key in keys:  # told twice at once: the first is the new one
        answers.append(key in new)
        new.discard(key)
    return answers


def strays(*, most: int) -> list[Stray]:
    """Return stored events of no room that the platform looks after, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(_STRAYS, (most,))
        return [Stray(row[0], row[1], _mapping(row[2])) for row in cursor.fetchall()]


def _mapping(value: Any) -> dict[str, object]:
    found = json.loads(value) if isinstance(value, str) else value
    return found if isinstance(found, dict) else {}


def processed(*, verdicts: Sequence[tuple[int, str]]) -> None:
    """Write what was made of events."""
    if not verdicts:
        return
    with connection.cursor() as cursor:
        cursor.execute(_VERDICTS, ([each[0] for each in verdicts], [each[1][:200] for each in verdicts]))


def tried(*, event_id: int, verdict: str, give_up: int) -> None:
    """Write that an event could not be dealt with, and why; it is tried again, ``give_up`` times in all."""
    with connection.cursor() as cursor:
        cursor.execute(_TRIED, {"verdict": verdict[:200], "id": event_id, "most": give_up})


def replay(*, ids: Collection[int]) -> int:
    """Let events be processed once more, as if they had just come, and return how many there were.

    Raises:
        ValueError: more than ``MAX_REPLAYED``.
    """
    if len(ids) > MAX_REPLAYED:
        raise ValueError(f"at most {MAX_REPLAYED} events can be replayed at once, not {len(ids)}")
    with connection.cursor() as cursor:
        cursor.execute(_REPLAY, {"ids": list(ids)})
        return int(cursor.fetchall()[0][0])


def refused(*, counts: Mapping[tuple[int, str], int]) -> None:
    """Add to the counts of refused webhooks of this minute, by backend and reason."""
    if not counts:
        return
    keys = sorted(counts)
    with connection.cursor() as cursor:
        cursor.execute(_REFUSED, ([key[0] for key in keys], [key[1] for key in keys], [counts[key] for key in keys]))


def drifted(
    *, kind: Drift.Kind, backend_id: int, room: str, sid: str = "", participant: str = "", session_id: UUID | None = None, detail: str = ""
) -> bool:
    """Record something that provider and platform did not agree on; False where it has been recorded before."""
    with connection.cursor() as cursor:
        cursor.execute(_DRIFTED, (kind, backend_id, room[:128], sid[:64], participant[:128], session_id, detail[:200]))
        return bool(cursor.rowcount)
