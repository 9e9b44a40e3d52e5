"""Reads of how the platform's own parts are: nodes with their heartbeats, worker and beat with their last sign of life, the last sweep.

Every age is taken by the database's clock, which wrote the times. Bounded: ``MOST_NODES`` nodes; those that are gone are shown for
``GONE_SHOWN_S`` seconds.
"""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.conf import settings
from django.db import connection

WORKER: Final = "celery.worker"
BEAT: Final = "celery.beat"
SWEEP: Final = "sweep"
MISSED_AFTER_S: Final = 60.0  # six signs of life that did not come
GONE_SHOWN_S: Final = 3600
MOST_NODES: Final = 50

_NODES: Final = """
SELECT n.name, n.state, extract(epoch FROM clock_timestamp() - n.heartbeat_at)::float8,
       extract(epoch FROM clock_timestamp() - n.started_at)::float8, coalesce(s.held, 0), coalesce(s.away, 0)
FROM sessions_app_node n LEFT JOIN (
    SELECT node_id, count(*) AS held, count(*) FILTER (WHERE state = 'reconnecting') AS away FROM sessions_app_slot GROUP BY 1
) s ON s.node_id = n.id
WHERE n.state IN ('up', 'draining') OR s.held > 0 OR n.heartbeat_at > clock_timestamp() - make_interval(secs => %s)
ORDER BY n.state NOT IN ('up', 'draining'), n.heartbeat_at DESC LIMIT %s"""
_SIGHTINGS: Final = """
SELECT name, holder, extract(epoch FROM clock_timestamp() - done_at)::float8
FROM sessions_app_claim WHERE name = ANY(%s) AND done_at IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class NodeNow:
    """One server process.

    Attributes:
        heartbeat_age_s: Seconds since its last heartbeat.
        age_s: Seconds since it started.
        held: Slots of the sessions that it carries, ``away`` of them waiting for their client.
        late: It should beat, and has not for a whole lease.
    """

    name: str
    state: str
    heartbeat_age_s: float
    age_s: float
    held: int
    away: int
    late: bool


@dataclass(frozen=True, slots=True)
class Nodes:
    """Those that run first, then the latest heartbeat first; ``cut`` where there are more."""

    rows: list[NodeNow]
    cut: bool


@dataclass(frozen=True, slots=True)
class Sighting:
    """When a part was last at work: ``age_s`` seconds ago (None: never), in the process ``holder``."""

    age_s: float | None = None
    holder: str = ""

    @property
    def missed(self) -> bool:
        """Whether that is too long ago to take it for running."""
        return self.age_s is None or self.age_s > MISSED_AFTER_S


@dataclass(frozen=True, slots=True)
class Clock:
    """The database's time, and how long it took to say so in milliseconds."""

    now: datetime
    took_ms: float


def clock() -> Clock:
    """Ask the database for its time."""
    with connection.cursor() as cursor:
        start = time.perf_counter()  # without the time that a new connection takes
        cursor.execute("SELECT clock_timestamp()")
        row = cursor.fetchone()
    assert row is not None
    return Clock(row[0], (time.perf_counter() - start) * 1000)


def nodes() -> Nodes:
    """Return the nodes that run, and those that have not been gone for long or still hold slots."""
    running = {"up", "draining"}
    with connection.cursor() as cursor:
        cursor.execute(_NODES, (GONE_SHOWN_S, MOST_NODES + 1))
        rows = [
            NodeNow(name, state, beat_s, age_s, held, away, late=state in running and beat_s > settings.VOICE_LEASE_S)
            for name, state, beat_s, age_s, held, away in cursor.fetchall()
        ]
    return Nodes(rows[:MOST_NODES], len(rows) > MOST_NODES)


def sightings() -> dict[str, Sighting]:
    """Return when worker, beat and sweep were last at work."""
    with connection.cursor() as cursor:
        cursor.execute(_SIGHTINGS, ([WORKER, BEAT, SWEEP],))
        found = {name: Sighting(age_s, holder) for name, holder, age_s in cursor.fetchall()}
    return {name: found.get(name, Sighting()) for name in (WORKER, BEAT, SWEEP)}
