"""Ask for the end of sessions, from any process. The node that carries a session looks once a second and ends it; the sweep does
where no node lives. A session in a room is ended by whoever looks after the room, which is due at once.

Owns: the rows that ask. The first one who asks is kept, with the words that they gave; the event of the end repeats both.
Refuses: to change a session, which the ledger alone does; the network, the channel layer with it, so that an end can be asked for while
Valkey is away.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from django.db import connection

from sessions_app.domain.states import LIVE_STATES, Reason

# Every door for people asks for it. Nobody can change a session by a form, so it is good for this alone.
PERMISSION: Final = "sessions_app.change_session"
MAX_DETAIL_CHARS: Final = 300
MAX_ACTOR_CHARS: Final = 150
MAX_AT_ONCE: Final = 500

# One statement, so one transaction. In the order of the ids: two that ask for the same sessions wait for each other once, not crosswise.
_ASK: Final = """
WITH wanted AS (SELECT id, state = ANY(%(live)s) AS live FROM sessions_app_session WHERE id = ANY(%(ids)s)),
asked AS (INSERT INTO sessions_app_endrequest (session_id, reason, detail, actor, asked_at)
    SELECT id, %(reason)s, %(detail)s, %(actor)s, clock_timestamp() FROM wanted WHERE live ORDER BY id
    ON CONFLICT (session_id) DO NOTHING RETURNING session_id),
stirred AS (UPDATE sessions_app_room r SET due_at = clock_timestamp() FROM asked
    WHERE r.session_id = asked.session_id AND r.closed_at IS NULL RETURNING 1)
SELECT wanted.id, wanted.live, asked.session_id IS NOT NULL FROM wanted LEFT JOIN asked ON asked.session_id = wanted.id"""


_DECIDE: Final = """
WITH asked AS (INSERT INTO sessions_app_endrequest (session_id, reason, detail, actor, asked_at)
    SELECT id, %(reason)s, %(detail)s, %(actor)s, clock_timestamp() FROM sessions_app_session WHERE id = %(id)s AND state = ANY(%(live)s)
    ON CONFLICT (session_id) DO NOTHING RETURNING reason, detail, actor)
SELECT reason, detail, actor FROM asked UNION ALL
SELECT reason, detail, actor FROM sessions_app_endrequest WHERE session_id = %(id)s LIMIT 1"""


class Outcome(StrEnum):
    """What became of asking for one session's end."""

    ASKED = "asked"
    ASKED_ALREADY = "asked_already"
    OVER = "over"
    UNKNOWN = "unknown"


def request_end(*, session_id: UUID, actor: str, detail: str = "") -> Outcome:
    """Ask for one session's end, with reason ``terminated``.

    Args:
        actor: Who asks, as history will name them; cut at ``MAX_ACTOR_CHARS``.
        detail: Why, for people; cut at ``MAX_DETAIL_CHARS``.

    Raises:
        django.db.Error: the database is away.
    """
    return request_ends(session_ids=[session_id], actor=actor, detail=detail)[session_id]


def request_ends(*, session_ids: Collection[UUID], actor: str, detail: str = "") -> dict[UUID, Outcome]:
    """Ask for the end of several sessions, as ``request_end`` does, in one transaction.

    Raises:
        ValueError: more than ``MAX_AT_ONCE``.
        django.db.Error: the database is away.
    """
    if len(session_ids) > MAX_AT_ONCE:
        raise ValueError(f"at most {MAX_AT_ONCE} sessions can be asked to end at once, not {len(session_ids)}")
    words = {"reason": Reason.TERMINATED, "detail": detail[:MAX_DETAIL_CHARS], "actor": actor[:MAX_ACTOR_CHARS]}
    with connection.cursor() as cursor:
        cursor.execute(_ASK, {"ids": list(session_ids), "live": sorted(LIVE_STATES), **words})
        found = {row[0]: _outcome(live=row[1], asked=row[2]) for row in cursor.fetchall()}
    return {each: found.get(each, Outcome.UNKNOWN) for each in session_ids}


@dataclass(frozen=True, slots=True)
class Decided:
    """Why a session ends: the first reason that was given."""

    reason: Reason
    detail: str
    actor: str


def decide(*, session_id: UUID, reason: Reason, detail: str = "", actor: str = "") -> Decided | None:
    """Write that a session is to end before anything is done about it, and return the reason that counts; None where it is over.

    Raises:
        django.db.Error: the database is away.
    """
    words: dict[str, Any] = {"reason": reason, "detail": detail[:MAX_DETAIL_CHARS], "actor": actor[:MAX_ACTOR_CHARS]}
    with connection.cursor() as cursor:
        cursor.execute(_DECIDE, {**words, "id": session_id, "live": sorted(LIVE_STATES)})
        row = cursor.fetchone()
        return Decided(Reason(row[0]), row[1], row[2]) if row else None


def decide_for_all(*, reason: Reason) -> list[UUID]:
    """Write that every session in a room is to end, and return which those are.

    Raises:
        django.db.Error: the database is away.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH live AS (SELECT r.session_id FROM sessions_app_room r JOIN sessions_app_slot p USING (session_id)"
            " WHERE r.closed_at IS NULL ORDER BY 1), asked AS ("
            " INSERT INTO sessions_app_endrequest (session_id, reason, detail, actor, asked_at)"
            " SELECT session_id, %s, '', '', clock_timestamp() FROM live ON CONFLICT (session_id) DO NOTHING) SELECT session_id FROM live",
            (reason,),
        )
        return [row[0] for row in cursor.fetchall()]


def _outcome(*, live: bool, asked: bool) -> Outcome:
    if asked:
        return Outcome.ASKED
    return Outcome.ASKED_ALREADY if live else Outcome.OVER
