"""The rows of rooms: who looks after one, what is known of it, when somebody has to look again.

Owns: the claim of a room. One process at a time folds what the provider said and acts on it; a claim is taken and given back by a
compare-and-set with an expiry, and no lock is held over the network. Whoever dies with it is followed by whoever looks next, since a
claimed room is due again when its claim is over. All times are the database's.
Refuses: state and capacity, which are the ledger's; the network.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction

from sessions_app.domain.rooms import Facts, Life
from sessions_app.domain.states import LIVE_STATES, Reason, State

CLAIM_S: Final = 20.0  # longer than all that one look may take over the network
MAX_EVENTS: Final = 200  # of one room that one look takes in
_LIVE: Final = sorted(LIVE_STATES)

# Only for sessions that live: one that was ended meanwhile gets no room.
_PREPARE: Final = """
INSERT INTO sessions_app_room AS r (session_id, backend_id, name, made_at, join_by, agent_by, due_at, facts, claimed_by)
SELECT s.id, v.backend, v.name, t.now, t.now + make_interval(secs => v.join_s), t.now + make_interval(secs => v.agent_s),
       t.now + make_interval(secs => v.first_s), '{}', ''
FROM unnest(%(id)s::uuid[], %(backend)s::bigint[], %(name)s::text[], %(join)s::float8[], %(agent)s::float8[], %(first)s::float8[])
    AS v(id, backend, name, join_s, agent_s, first_s) JOIN sessions_app_session s ON s.id = v.id AND s.state = ANY(%(live)s),
    (SELECT clock_timestamp() AS now) AS t
ON CONFLICT (session_id) DO UPDATE SET backend_id = excluded.backend_id, name = excluded.name, made_at = excluded.made_at,
    join_by = excluded.join_by, agent_by = excluded.agent_by, due_at = excluded.due_at, closed_at = NULL, facts = '{}',
    generation = r.generation + (r.backend_id <> excluded.backend_id)::int, user_here = false, agent_here = false,
    close_tries = 0
RETURNING session_id"""
_CLAIM: Final = """
UPDATE sessions_app_room SET claimed_by = %(holder)s, claimed_until = clock_timestamp() + make_interval(secs => %(claim)s),
    due_at = clock_timestamp() + make_interval(secs => %(claim)s)
WHERE session_id = %(id)s AND (claimed_until IS NULL OR claimed_until < clock_timestamp()) RETURNING session_id"""
_LOOK: Final = """
SELECT r.session_id, r.backend_id, b.name, r.name, r.facts, r.generation, r.close_tries, r.closed_at IS NOT NULL, clock_timestamp(),
       t.slug, r.due_at, s."user", s.tenant_id, s.pipeline, s.transport, s.metadata, b.pipelines, r.agent_here, p.state, e.reason,
       e.detail, e.actor, extract(epoch FROM r.join_by)::float8, extract(epoch FROM r.agent_by)::float8, r.agent_tries,
       extract(epoch FROM p.lease_until)::float8, extract(epoch FROM p.dropped_at)::float8, s.reason,
       extract(epoch FROM s.active_at)::float8, q.max_duration_s, q.idle_timeout_s, p.backend_id
FROM sessions_app_room r JOIN sessions_app_session s ON s.id = r.session_id JOIN sessions_app_backend b ON b.id = r.backend_id
JOIN tenants_tenant t ON t.id = s.tenant_id JOIN tenants_quota q ON q.tenant_id = t.id
LEFT JOIN sessions_app_slot p ON p.session_id = r.session_id LEFT JOIN sessions_app_endrequest e ON e.session_id = r.session_id
WHERE r.session_id = %s"""
_EVENTS: Final = """
SELECT id, body, extract(epoch FROM received_at)::float8 FROM sessions_app_webhookevent
WHERE session_id = %s AND backend_id = %s AND processed_at IS NULL ORDER BY id LIMIT %s"""
_SAVE: Final = """
UPDATE sessions_app_room SET facts = %(facts)s, generation = %(generation)s, user_here = %(user)s, agent_here = %(agent)s,
    join_by = CASE WHEN %(joined)s THEN NULL ELSE join_by END,
    agent_by = CASE WHEN %(agent_in)s::float8 IS NULL THEN NULL
                    WHEN %(agent_in)s < 0 THEN agent_by
                    ELSE clock_timestamp() + make_interval(secs => %(agent_in)s) END,
    agent_tries = %(tries)s, seen_at = CASE WHEN %(seen)s THEN clock_timestamp() ELSE seen_at END
WHERE session_id = %(id)s AND claimed_by = %(holder)s RETURNING extract(epoch FROM agent_by)::float8"""
_PROCESSED: Final = """
UPDATE sessions_app_webhookevent w SET processed_at = clock_timestamp(), verdict = v.verdict, attempts = attempts + 1
FROM unnest(%s::bigint[], %s::text[]) AS v(id, verdict) WHERE w.id = v.id AND w.processed_at IS NULL"""
# Whoever stirred the room while it was claimed has moved its due time: then it stays due.
_RELEASE: Final = """
UPDATE sessions_app_room SET claimed_by = '', claimed_until = NULL,
    due_at = CASE WHEN due_at < %(mark)s THEN due_at ELSE to_timestamp(%(due)s::float8) END
WHERE session_id = %(id)s AND claimed_by = %(holder)s RETURNING due_at < clock_timestamp()"""
_CLOSED: Final = """
UPDATE sessions_app_room SET closed_at = clock_timestamp(), due_at = NULL, claimed_by = '', claimed_until = NULL, user_here = false,
    agent_here = false
WHERE session_id = %(id)s AND closed_at IS NULL"""
_NOT_CLOSED: Final = "UPDATE sessions_app_room SET close_tries = close_tries + 1 WHERE session_id = %s RETURNING close_tries"
_STIR: Final = """
UPDATE sessions_app_room SET due_at = clock_timestamp()
WHERE session_id = ANY(%s) AND closed_at IS NULL AND (due_at IS NULL OR due_at > clock_timestamp())"""
_HURRY: Final = """
UPDATE sessions_app_room SET join_by = least(join_by, t.at), due_at = least(due_at, t.at)
FROM (SELECT clock_timestamp() + make_interval(secs => %(seconds)s) AS at) AS t
WHERE session_id = %(id)s AND closed_at IS NULL AND join_by IS NOT NULL"""
_DUE: Final = """
SELECT session_id FROM sessions_app_room WHERE due_at <= clock_timestamp() AND (claimed_until IS NULL OR claimed_until < clock_timestamp())
ORDER BY due_at LIMIT %s"""
# A session that has not begun lives by its node too: who was to be told where its room is may never have heard of it.
_ABANDONED: Final = """
UPDATE sessions_app_room r SET join_by = clock_timestamp(), due_at = clock_timestamp()
FROM sessions_app_slot p LEFT JOIN sessions_app_node n ON n.id = p.node_id
WHERE p.session_id = r.session_id AND p.state = 'starting' AND r.closed_at IS NULL AND r.join_by > clock_timestamp()
  AND coalesce(n.heartbeat_at, p.since) < clock_timestamp() - make_interval(secs => %s)"""
_WITH_ROOMS: Final = """
SELECT DISTINCT r.backend_id FROM sessions_app_room r JOIN sessions_app_slot p USING (session_id) WHERE r.closed_at IS NULL"""
_ON_BACKEND: Final = """
SELECT r.session_id, r.name, p.session_id IS NOT NULL, r.made_at < clock_timestamp() - make_interval(secs => %s), r.user_here,
       extract(epoch FROM clock_timestamp() - r.seen_at)::float8
FROM sessions_app_room r LEFT JOIN sessions_app_slot p USING (session_id) WHERE r.backend_id = %s AND r.closed_at IS NULL"""
_LIVE_ROOM: Final = """
SELECT r.backend_id FROM sessions_app_room r JOIN sessions_app_slot p USING (session_id) WHERE r.name = %s AND r.session_id = %s"""


@dataclass(frozen=True, slots=True)
class Stored:
    """An event of the inbox that is to be folded; ``at`` in seconds by the database's clock."""

    id: int
    body: Mapping[str, object]
    at: float


@dataclass(slots=True)
class Look:
    """A room under its claim, with what decides about it. Times in seconds by the database's clock."""

    session_id: UUID
    backend_id: int
    backend: str
    name: str
    facts: Facts
    generation: int
    close_tries: int
    closed: bool
    now: float
    tenant: str
    due_mark: datetime
    user: str
    tenant_id: int
    pipeline: str
    transport: str
    metadata: Mapping[str, object]
    model: Mapping[str, object]
    agent_here: bool
    slot_backend_id: int | None
    end_detail: str
    end_actor: str
    life: Life


@dataclass(frozen=True, slots=True)
class Wanted:
    """A room that is about to be asked for.

    Attributes:
        session_id: Whose.
        backend_id: Where; another one than before makes it a new room.
        name: The room's.
        join_s: The user must be there after so many seconds.
        agent_s: An agent must be; None: none is expected.
        first_s: Somebody looks after it then at the latest.
    """

    session_id: UUID
    backend_id: int
    name: str
    join_s: float
    agent_s: float | None
    first_s: float


def prepare(wanted: Sequence[Wanted]) -> list[bool]:
    """Write that sessions, each once, are about to have rooms, before the provider is asked for them; False for one that has ended."""
    columns: dict[str, Any] = {
        "id": [each.session_id for each in wanted],
        "backend": [each.backend_id for each in wanted],
        "name": [each.name for each in wanted],
        "join": [float(each.join_s) for each in wanted],
        "agent": [None if each.agent_s is None else float(each.agent_s) for each in wanted],
        "first": [float(each.first_s) for each in wanted],
    }
    with connection.cursor() as cursor:
        cursor.execute(_PREPARE, {**columns, "live": _LIVE})
        written = {row[0] for row in cursor.fetchall()}
    return [each.session_id in written for each in wanted]


def claim(*, session_id: UUID, holder: str) -> Look | None:
    """Claim a room for ``CLAIM_S`` seconds and return how it is; None where somebody else has it, or there is none."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"id": session_id, "holder": holder, "claim": CLAIM_S})
        if cursor.fetchone() is None:
            return None
        return _look(cursor, session_id)


def look(*, session_id: UUID) -> Look | None:
    """Return how a room is, claimed or not; None where there is none."""
    with connection.cursor() as cursor:
        return _look(cursor, session_id)


def _look(cursor: Any, session_id: UUID) -> Look | None:
    cursor.execute(_LOOK, (session_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    facts, metadata, pipelines = (_json(row[index]) for index in (4, 15, 16))
    model = pipelines.get(row[13])
    unresumed = Reason(row[27]) if row[27] in _UNRESUMED else Reason.CLIENT_LOST
    life = Life(
        state=State(row[18]) if row[18] else None,
        asked_to_end=Reason(row[19]) if row[19] else None,
        join_by=row[22],
        agent_by=row[23],
        agent_tries=row[24],
        lease_until=row[25],
        dropped_at=row[26],
        unresumed=unresumed,
        active_at=row[28],
        max_duration_s=row[29],
        idle_timeout_s=row[30],
    )
    return Look(
        session_id=row[0],
        backend_id=row[1],
        backend=row[2],
        name=row[3],
        facts=Facts.from_json(facts),
        generation=row[5],
        close_tries=row[6],
        closed=row[7],
        now=row[8].timestamp(),
        tenant=row[9],
        due_mark=row[10],
        user=row[11],
        tenant_id=row[12],
        pipeline=row[13],
        transport=row[14],
        metadata=metadata,
        model=model if isinstance(model, dict) else {},
        agent_here=row[17],
        slot_backend_id=row[31],
        end_detail=row[20] or "",
        end_actor=row[21] or "",
        life=life,
    )


# Why a client had to come back is why its session ends when it does not.
_UNRESUMED: Final = {Reason.NODE_LOST.value, Reason.DRAINED.value}


def _json(value: Any) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    return found if isinstance(found, dict) else {}


def unprocessed(*, session_id: UUID, backend_id: int) -> list[Stored]:
    """Return what the provider told of a session's room and nobody has folded yet, oldest first, at most ``MAX_EVENTS``."""
    with connection.cursor() as cursor:
        cursor.execute(_EVENTS, (session_id, backend_id, MAX_EVENTS))
        return [Stored(row[0], _json(row[1]), row[2]) for row in cursor.fetchall()]


def save(
    *,
    found: Look,
    holder: str,
    facts: Facts,
    generation: int,
    agent_in_s: float | None,
    agent_tries: int,
    asked: bool,
    verdicts: Sequence[tuple[int, str]],
) -> float | None:
    """Write what is known of a claimed room now, and what was made of its events, in one transaction.

    Args:
        found: The room.
        holder: Who has the claim.
        facts: What is known.
        generation: How often the room was made.
        agent_in_s: An agent must be there in so many seconds; None: one is, or none is expected; negative: as it was.
        agent_tries: How often an agent was asked for again.
        asked: Whether the provider was asked who is there.
        verdicts: Id and verdict of each event that was folded.

    Returns:
        When an agent must be there now.

    Raises:
        LostClaim: Somebody else has the room now: nothing was written.
    """
    here = facts.user_is_here
    words: dict[str, Any] = {
        "id": found.session_id,
        "holder": holder,
        "facts": json.dumps(facts.to_json()),
        "generation": generation,
        "user": here,
        "agent": facts.agent_is_here,
        "joined": here,
        "agent_in": agent_in_s,
        "tries": agent_tries,
        "seen": asked,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_SAVE, words)
        row = cursor.fetchone()
        if row is None:
            raise LostClaim
        if verdicts:
            cursor.execute(_PROCESSED, ([each[0] for each in verdicts], [each[1][:200] for each in verdicts]))
        agent_by: float | None = row[0]
        return agent_by


class LostClaim(Exception):
    """Somebody else looks after the room by now."""


def release(*, found: Look, holder: str, due: float | None) -> bool:
    """Give a claim back; the room is due again at ``due`` (None: when something happens). Return whether it is due already."""
    with connection.cursor() as cursor:
        cursor.execute(_RELEASE, {"id": found.session_id, "holder": holder, "mark": found.due_mark, "due": due})
        row = cursor.fetchone()
        return bool(row and row[0])


def closed(*, session_id: UUID) -> None:
    """Write that the provider has removed a session's room; nobody looks after it any more."""
    with connection.cursor() as cursor:
        cursor.execute(_CLOSED, {"id": session_id})


def not_closed(*, session_id: UUID) -> int:
    """Write that the provider could not remove a room, and return how often that was so."""
    with connection.cursor() as cursor:
        cursor.execute(_NOT_CLOSED, (session_id,))
        row = cursor.fetchone()
        return int(row[0]) if row else 0


def stir(*, session_ids: Collection[UUID]) -> None:
    """Make rooms due now; whoever has one claimed looks again."""
    with connection.cursor() as cursor:
        cursor.execute(_STIR, (list(session_ids),))


def hurry(*, session_id: UUID, seconds: float) -> None:
    """Let the user have at most so many seconds more to join; nothing where they have joined."""
    with connection.cursor() as cursor:
        cursor.execute(_HURRY, {"id": session_id, "seconds": seconds})


def due(*, most: int) -> list[UUID]:
    """Return the sessions whose rooms somebody has to look after now, the longest due first."""
    with connection.cursor() as cursor:
        cursor.execute(_DUE, (most,))
        return [row[0] for row in cursor.fetchall()]


def abandoned(*, silent_s: float) -> int:
    """Let nobody wait for users whose node has been silent for so many seconds before they joined; return how many."""
    with connection.cursor() as cursor:
        cursor.execute(_ABANDONED, (silent_s,))
        return int(cursor.rowcount)


@dataclass(frozen=True, slots=True)
class Expected:
    """A room that the platform has on a backend.

    Attributes:
        session_id: Whose.
        name: The room's.
        live: Its session holds a slot.
        settled: It was not made just now.
        user_here: Its user is in it, as far as is known.
        asked_s: How many seconds ago the provider was asked who is in it; None: never.
    """

    session_id: UUID
    name: str
    live: bool
    settled: bool
    user_here: bool
    asked_s: float | None


def backends_with_rooms() -> list[int]:
    """Return the backends on which sessions live in rooms."""
    with connection.cursor() as cursor:
        cursor.execute(_WITH_ROOMS)
        return [row[0] for row in cursor.fetchall()]


def on_backend(*, backend_id: int, settle_s: float) -> list[Expected]:
    """Return the rooms that a backend should have, or still has to remove. Ask the provider first, so that none is too new for it."""
    with connection.cursor() as cursor:
        cursor.execute(_ON_BACKEND, (settle_s, backend_id))
        return [Expected(*row) for row in cursor.fetchall()]


def live_on(*, name: str, session_id: UUID | None) -> int | None:
    """Return the backend on which this is the room of a session that holds a slot; None where there is none."""
    if session_id is None:
        return None
    with connection.cursor() as cursor:
        cursor.execute(_LIVE_ROOM, (name, session_id))
        row = cursor.fetchone()
        return row[0] if row else None
