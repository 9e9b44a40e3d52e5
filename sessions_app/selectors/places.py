"""Where those stand who wait, and how long it may take: the same rules as those of promotion, on what the database has right now.

Refuses: locks; a place is a statement about a moment. Limits: the first ``MOST`` waiters of each tenant; whoever is behind them has no
place yet. The expected wait comes from how often slots became free lately, for the same tenant or on the same backends, and is unknown
where that was too seldom to say.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from sessions_app.domain import queueing
from sessions_app.domain.admission import Scope
from sessions_app.domain.queueing import Waiter
from sessions_app.domain.states import FINAL_STATES, SLOT_STATES
from sessions_app.selectors import world
from sessions_app.selectors.world import Scene

MOST: Final = 20_000
RELEASES_OVER_S: Final = 300.0
MOST_EVENTS: Final = 20_000  # of the newest that are looked through for releases

_WAITING_TENANTS: Final = "SELECT ref FROM sessions_app_capacity WHERE queued > 0 AND scope = 'tenant'"
_RELEASES: Final = """
SELECT tenant_id, backend_id, count(*), max(oldest) FROM (
    SELECT tenant_id, backend_id, extract(epoch FROM clock_timestamp() - min(at) OVER ())::float8 AS oldest
    FROM (SELECT tenant_id, backend_id, at, old, new FROM sessions_app_sessionevent ORDER BY seq DESC LIMIT %(most)s) AS newest
    WHERE at > clock_timestamp() - make_interval(secs => %(over)s) AND old = ANY(%(slots)s) AND new = ANY(%(over_states)s)
) AS released GROUP BY 1, 2"""


@dataclass(frozen=True, slots=True)
class Standing:
    """A place in the queue (1: next) and the seconds that it may take; None: nobody can say."""

    position: int
    estimated_wait_s: float | None


@dataclass(frozen=True, slots=True)
class Queues:
    """Everybody who waits, in the world as it was at one moment.

    Attributes:
        now: That moment, by the database's clock.
        releases: Tenant id, backend id, slots that became free lately, and over how many seconds.
    """

    now: datetime
    scene: Scene
    waiters: list[Waiter]
    releases: list[tuple[int, int | None, int, float]]

    def standings(self, waiters: Iterable[Waiter]) -> dict[UUID, Standing]:
        """Return where everybody stands, by session id, if these were all who wait."""
        waiting = list(waiters)
        tenants = {each.attempt.session_id: self.scene.world.tenants.get(each.attempt.tenant_id) for each in waiting}
        over_s = max((row[3] for row in self.releases), default=0.0)
        found = {}
        for session_id, place in queueing.positions(self.scene.world, waiting).items():
            tenant = tenants[session_id]
            if tenant is None:
                continue
            own = place.waits_for in {Scope.TENANT, Scope.USER}
            releases = sum(row[2] for row in self.releases if (row[0] == tenant.id if own else row[1] in tenant.backends))
            found[session_id] = Standing(place.position, queueing.estimate(place.position, releases=releases, over_s=over_s))
        return found


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
    cursor.execute(
        _RELEASES, {"most": MOST_EVENTS, "over": RELEASES_OVER_S, "slots": sorted(SLOT_STATES), "over_states": sorted(FINAL_STATES)}
    )
    releases = cursor.fetchall()
    scene.world.user_used.update({(row[1], row[2]): row[12] for row in rows if row[12] is not None})
    return Queues(now, scene, [world.waiting(row, now).waiter for row in rows], releases)
