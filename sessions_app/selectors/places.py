"""Where those stand who wait, and how long it may take: the same rules as those of promotion, on what the database has right now.

The expected wait comes from how often lately there became free what the waiter needs: a slot of its user or tenant where that is at its
limit, of the platform where that is full, else one on a backend that can take it. It is unknown where that was too seldom to say.

Refuses: locks; a place is a statement about a moment. Limits: the first ``MOST`` waiters of each tenant; whoever is behind them has no
place yet. Who did nothing for longer than history is kept counts as new.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from sessions_app.domain import admission, queueing
from sessions_app.domain.queueing import Waiter
from sessions_app.domain.states import FINAL_STATES, SLOT_STATES
from sessions_app.domain.world import Attempt, Scope
from sessions_app.selectors import world
from sessions_app.selectors.world import Scene

MOST: Final = 20_000
RELEASES_OVER_S: Final = 300.0
MOST_EVENTS: Final = 20_000  # of the newest that are looked through for releases

_WAITING_TENANTS: Final = "SELECT ref FROM sessions_app_capacity WHERE queued > 0 AND scope = 'tenant'"
# How many slots became free, and over how many seconds that was counted: ``RELEASES_OVER_S``, also where most of them were quiet. Counted
# from the first release, three people who hang up at once after a quiet hour would promise a slot every third of a second. It is less only
# where there is nothing older to look at: before the first session of that tenant, user or backend, or behind ``MOST_EVENTS``.
_LATELY: Final = """
WITH newest AS MATERIALIZED (
    SELECT session_id, tenant_id, backend_id, at, old, new FROM sessions_app_sessionevent ORDER BY seq DESC LIMIT %(most)s
), reach AS (
    SELECT greatest(%(now)s - make_interval(secs => %(over)s), CASE WHEN count(*) = %(most)s THEN min(at) END) AS since FROM newest
), released AS (
    SELECT session_id, tenant_id, backend_id FROM newest, reach
    WHERE at >= since AND old = ANY(%(slots)s) AND new = ANY(%(over_states)s)
)"""
_RELEASES: Final = f"""{_LATELY}
SELECT found.tenant_id, found.backend_id, found.count, extract(epoch FROM %(now)s - greatest(reach.since, CASE
    WHEN found.tenant_id IS NOT NULL
    THEN (SELECT attempted_at FROM sessions_app_session s WHERE s.tenant_id = found.tenant_id ORDER BY s.id LIMIT 1)
    WHEN found.backend_id IS NOT NULL
    THEN (SELECT started_at FROM sessions_app_session s WHERE s.backend_id = found.backend_id ORDER BY s.id LIMIT 1)
    ELSE (SELECT attempted_at FROM sessions_app_session s ORDER BY s.id LIMIT 1) END))::float8
FROM reach, (
    SELECT tenant_id, backend_id, count(*) FROM released GROUP BY GROUPING SETS ((tenant_id), (backend_id), ())
) AS found"""  # noqa: S608 - of constants
_RELEASES_OF_USERS: Final = f"""{_LATELY}
SELECT found.tenant_id, found."user", found.count, extract(epoch FROM %(now)s - greatest(reach.since, (
    SELECT attempted_at FROM sessions_app_session s WHERE s.tenant_id = found.tenant_id AND s."user" = found."user" ORDER BY s.id LIMIT 1
)))::float8
FROM reach, (
    SELECT s.tenant_id, s."user", count(*) FROM released r JOIN sessions_app_session s ON s.id = r.session_id
    WHERE r.tenant_id = ANY(%(tenants)s) GROUP BY 1, 2
) AS found"""  # noqa: S608 - of constants

_Of = tuple[Scope, int, str]  # what became free: the id of its tenant or backend (0: the platform), and a user's name


@dataclass(frozen=True, slots=True)
class Releases:
    """How many slots became free lately, over how many seconds."""

    count: int = 0
    over_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A place in the queue (1: next), the seconds that it may take (None: nobody can say), and the quota's longest wait (None: any)."""

    position: int
    estimated_wait_s: float | None
    max_wait_s: int | None = None


@dataclass(frozen=True, slots=True)
class Queues:
    """Everybody who waits, in the world as it was at one moment.

    Attributes:
        now: That moment, by the database's clock.
        releases: What became free lately, of whom there was anything.
    """

    now: datetime
    scene: Scene
    waiters: list[Waiter]
    releases: dict[_Of, Releases]

    def standings(self, waiters: Iterable[Waiter]) -> dict[UUID, Standing]:
        """Return where everybody stands, by session id, if these were all who wait."""
        waiting = list(waiters)
        attempts = {each.attempt.session_id: each.attempt for each in waiting}
        on: dict[frozenset[int], Releases] = {}  # thousands who wait ask for the same few backends
        found = {}
        for session_id, place in queueing.positions(self.scene.world, waiting).items():
            attempt = attempts[session_id]
            tenant = self.scene.world.tenants.get(attempt.tenant_id)
            if tenant is None:
                continue
            if place.waits_for is Scope.BACKEND:
                backends = frozenset(each.id for each in admission.usable(self.scene.world, tenant, attempt)[0])
                if backends not in on:
                    on[backends] = self._on(backends)
                releases = on[backends]
            else:
                releases = self.releases.get(_key(place.waits_for, attempt), Releases())
            estimate_s = queueing.estimate(place.position, releases=releases.count, over_s=releases.over_s)
            found[session_id] = Standing(place.position, estimate_s, tenant.max_queue_wait_s)
        return found

    def _on(self, backends: frozenset[int]) -> Releases:
        """Return what became free on any of these backends. One that is new has been quiet for the time before."""
        each = [self.releases[key] for backend in backends if (key := (Scope.BACKEND, backend, "")) in self.releases]
        return Releases(sum(one.count for one in each), max((one.over_s for one in each), default=0.0))


def of(*, session_ids: Collection[UUID]) -> dict[UUID, Standing]:
    """Return where these sessions stand; those that wait no more are left out."""
    with transaction.atomic(), connection.cursor() as cursor:
        queues = look(cursor)
    standings = queues.standings(queues.waiters)
    return {each: standings[each] for each in session_ids if each in standings}


def look(cursor: Any, *, tenants: Collection[int] = (), users: Sequence[tuple[int, str]] = ()) -> Queues:
    """Look at everybody who waits, without locks, in the caller's transaction.

    Args:
        cursor: Django's.
        tenants: Who is wanted in the world besides the tenants that wait.
        users: Tenants with users whose use and rates are wanted.
    """
    cursor.execute(_WAITING_TENANTS)
    wanted = {*tenants, *(row[0] for row in cursor.fetchall())}
    cursor.execute("SELECT clock_timestamp()")
    now = cursor.fetchall()[0][0]
    scene = world.read(
        cursor,
        now=now,
        stale_s=settings.VOICE_PROBE_STALE_S,
        tenants=wanted,
        user_tenants=[each for each, _ in users],
        users=[each for _, each in users],
    )
    cursor.execute(world.WAITERS, {"tenants": sorted(wanted), "absent": True, "waiters": MOST})
    rows = cursor.fetchall()
    limited = {row[1] for row in rows if row[12] is not None}
    releases = _releases(cursor, now, of_users_of=limited)
    scene.world.user_used.update({(row[1], row[2]): row[12] for row in rows if row[12] is not None})
    return Queues(now, scene, [world.waiting(row, now).waiter for row in rows], releases)


def _releases(cursor: Any, now: datetime, *, of_users_of: Collection[int]) -> dict[_Of, Releases]:
    """Read what became free lately: of all tenants and backends, and of the users of these tenants."""
    asked = {
        "now": now,
        "most": MOST_EVENTS,
        "over": RELEASES_OVER_S,
        "slots": sorted(SLOT_STATES),
        "over_states": sorted(FINAL_STATES),
        "tenants": sorted(of_users_of),
    }
    cursor.execute(_RELEASES, asked)
    found: dict[_Of, Releases] = {}
    for tenant_id, backend_id, count, over_s in cursor.fetchall():
        scope = Scope.TENANT if tenant_id is not None else Scope.BACKEND if backend_id is not None else Scope.PLATFORM
        found[scope, tenant_id or backend_id or 0, ""] = Releases(count, over_s or 0.0)
    if of_users_of:
        cursor.execute(_RELEASES_OF_USERS, asked)
        found |= {(Scope.USER, row[0], row[1]): Releases(row[2], row[3] or 0.0) for row in cursor.fetchall()}
    return found


def _key(scope: Scope, attempt: Attempt) -> _Of:
    match scope:
        case Scope.USER:
            return scope, attempt.tenant_id, attempt.user
        case Scope.TENANT:
            return scope, attempt.tenant_id, ""
        case _:
            return scope, 0, ""
