"""The world that a decision depends on, as the database has it: limits in force, counters, health, reservations, rates, who waits.

Owns: the statements that read it and what each column means. The ledger runs them under its locks; others (an explanation, the places
in the queue) without, in a transaction of their own that sets ``voice.tenants``, ``voice.asking`` and ``voice.now`` as ``MARK`` does.
Refuses: locks, and writing. Limits: of each tenant's waiters the first few, of all tenants' waiters those whose tenants are asked for.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sessions_app.domain.admission import Attempt, BackendView, TenantView, World
from sessions_app.domain.operations import BackendRef, Policy
from sessions_app.domain.queueing import Waiter
from sessions_app.domain.rates import Bucket, RateKey
from sessions_app.domain.reservations import Reservations

MARK: Final = """
SELECT set_config('voice.tenants', %(tenants)s, true), set_config('voice.asking', %(tenants)s, true),
       set_config('voice.now', clock_timestamp()::text, true)::timestamptz"""
LOCKED_TENANTS: Final = "unnest(string_to_array(current_setting('voice.tenants'), ',')::bigint[])"
ASKING_TENANTS: Final = "unnest(string_to_array(current_setting('voice.asking'), ',')::bigint[])"
_NOW: Final = "current_setting('voice.now')::timestamptz"

TENANTS: Final = f"""
SELECT t.id, t.status, q.max_concurrent_sessions, q.max_sessions_per_user, q.max_duration_s, q.idle_timeout_s, q.grace_s,
       coalesce(c.active, 0), c.id IS NOT NULL, ARRAY(SELECT backend_id FROM sessions_app_backendaccess a WHERE a.tenant_id = t.id),
       q.burst, q.sessions_per_minute, q.user_sessions_per_minute, q.priority, q.weight, q.max_queue_length, q.max_queue_wait_s,
       coalesce(c.queued, 0),
       (SELECT jsonb_object_agg(o.field, o.change) FROM (
            SELECT field, sum(change) AS change FROM tenants_override
            WHERE tenant_id = t.id AND ends_at > {_NOW} AND starts_at <= {_NOW} GROUP BY field) AS o)
FROM {LOCKED_TENANTS} AS wanted(id) JOIN tenants_tenant t USING (id) JOIN tenants_quota q ON q.tenant_id = t.id
LEFT JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id"""  # noqa: S608 - of constants
BACKENDS: Final = """
SELECT b.id, b.name, b.provider, b.cap, b.weight, b.enabled, b.draining, b.pipelines, b.transports, coalesce(c.active, 0), c.id IS NOT NULL,
       coalesce(h.status = 'healthy' AND h.last_probe_at > clock_timestamp() - make_interval(secs => %s), false), b.burst_below
FROM sessions_app_backend b LEFT JOIN sessions_app_backendhealth h ON h.backend_id = b.id
LEFT JOIN sessions_app_capacity c ON c.scope = 'backend' AND c.ref = b.id"""
PLATFORM: Final = """
SELECT (SELECT max_concurrent_sessions FROM sessions_app_platform),
       (SELECT coalesce(sum(active), 0)::bigint FROM sessions_app_capacity WHERE scope = 'backend')"""
USERS: Final = """
SELECT s.tenant_id, s."user", count(*) FROM sessions_app_slot s
JOIN (SELECT DISTINCT * FROM unnest(%(user_tenants)s::bigint[], %(users)s::text[])) AS asked(tenant_id, "user")
USING (tenant_id, "user") GROUP BY 1, 2"""
RATES: Final = """
SELECT r.tenant_id, r."user", r.tokens, extract(epoch FROM r.at)::float8 FROM sessions_app_ratebucket r
JOIN (SELECT * FROM unnest(%(user_tenants)s::bigint[], %(users)s::text[])
      UNION SELECT unnest(%(user_tenants)s::bigint[]), '') AS asked(tenant_id, "user") USING (tenant_id, "user")"""
# The slots of a tenant on the backend where it reserved some; whoever holds that backend's lock sees them stand still.
RESERVATIONS: Final = """
SELECT q.tenant_id, place.id, q.reserved,
       (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = q.tenant_id AND s.backend_id = place.id)
FROM tenants_quota q CROSS JOIN LATERAL (SELECT voice_reserved_on(q.tenant_id, q.reserved_backend) AS id) AS place
WHERE q.reserved > 0 AND place.id IS NOT NULL"""
WAITER_COLUMNS: Final = """w.session_id, w.tenant_id, w."user", w.pipeline, w.transport, w.backend_name, w.node_id, w.since, w.place,
       w.absent_until, w.generation, w.resume_floor"""
# Where the number of a user's sessions matters, that too.
WAITER_AND_USER: Final = f"""{WAITER_COLUMNS}, CASE WHEN q.max_sessions_per_user IS NOT NULL THEN
       (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = w.tenant_id AND s."user" = w."user") END"""  # noqa: S608 - of constants
# The first of each tenant that asks.
WAITERS: Final = f"""
SELECT {WAITER_AND_USER}
FROM {ASKING_TENANTS} AS t(id) JOIN tenants_quota q ON q.tenant_id = t.id
JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0
CROSS JOIN LATERAL (SELECT * FROM sessions_app_waiter w WHERE w.tenant_id = t.id AND (w.absent_until IS NULL OR %(absent)s)
                    ORDER BY w.since, w.place LIMIT %(waiters)s) AS w"""  # noqa: S608 - of constants

Rows = Iterable[Sequence[Any]]


@dataclass(slots=True)
class Waiting:
    """A place in the queue as it was loaded, and as a batch has changed it since."""

    waiter: Waiter
    node_id: UUID | None
    since: datetime
    absent_until: datetime | None
    expired: bool
    generation: int
    floor: int
    over: bool = False

    @property
    def attempt(self) -> Attempt:
        """What it waits for."""
        return self.waiter.attempt


@dataclass(slots=True)
class Scene:
    """The world with what a decision's answer needs besides."""

    world: World
    policies: dict[int, Policy]
    refs: dict[int, BackendRef]
    counters: set[tuple[str, int]]  # that have a row


def scene(
    *,
    now: datetime,
    tenants: Sequence[Sequence[Any]],
    backends: Sequence[Sequence[Any]],
    platform: Sequence[Any],
    users: Rows,
    rates: Rows,
    reservations: Rows,
    usable: set[int] | None = None,
) -> Scene:
    """Read the rows. Backends that are not in ``usable`` (None: all are) are left out: they were enabled after the locks were taken."""
    reserved: dict[int, dict[int, tuple[int, int]]] = {}
    for tenant_id, backend_id, slots, used in reservations:
        reserved.setdefault(backend_id, {})[tenant_id] = (slots, used)
    views = {
        row[0]: BackendView(
            id=row[0],
            name=row[1],
            cap=row[3],
            weight=row[4],
            used=row[9],
            healthy=row[11],
            draining=row[6],
            pipelines=_names(row[7], dict),
            transports=_names(row[8], list),
            burst_below=row[12],
            # An unhealthy backend's reservations wait: nobody is sent there, so they keep nothing.
            reservations=Reservations(reserved.get(row[0])),
        )
        for row in backends
        if row[5] and (usable is None or row[0] in usable)
    }
    every = frozenset(views)
    world = World(
        platform_limit=platform[0],
        platform_used=platform[1],
        backends=views,
        tenants={row[0]: _tenant(row, every) for row in tenants},
        user_used={(row[0], row[1]): row[2] for row in users},
        now=now.timestamp(),
        rates={_rate_key(row[0], row[1]): Bucket(row[2], row[3]) for row in rates},
    )
    return Scene(
        world=world,
        policies={row[0]: Policy(*row[4:7]) for row in tenants},
        refs={row[0]: BackendRef(*row[:3]) for row in backends},
        counters={("tenant", row[0]) for row in tenants if row[8]} | {("backend", row[0]) for row in backends if row[10]},
    )


def read(cursor: Any, *, now: datetime, stale_s: float, user_tenants: Sequence[int] = (), users: Sequence[str] = ()) -> Scene:
    """Read the scene without locks, after ``MARK``; ``user_tenants`` and ``users`` name pairs whose use and rates are wanted.

    Args:
        cursor: Django's, in a transaction.
        now: What ``MARK`` returned.
        stale_s: How old a probe may be, in seconds.
    """
    who = {"user_tenants": list(user_tenants), "users": list(users)}

    def rows(statement: str, parameters: Any = None, *, of_json: Sequence[int] = ()) -> list[list[Any]]:
        cursor.execute(statement, parameters)
        # Django's connections leave JSON as text.
        return [
            [json.loads(value) if index in of_json and value is not None else value for index, value in enumerate(row)]
            for row in cursor.fetchall()
        ]

    return scene(
        now=now,
        tenants=rows(TENANTS, of_json=(18,)),
        backends=rows(BACKENDS, (stale_s,), of_json=(7, 8)),
        platform=rows(PLATFORM)[0],
        users=rows(USERS, who),
        rates=rows(RATES, who),
        reservations=rows(RESERVATIONS),
    )


def waiting(row: Sequence[Any], now: datetime) -> Waiting:
    """Read a row of ``WAITER_COLUMNS``."""
    attempt = Attempt(row[0], row[1], row[2], row[3], row[4], row[5])
    waiter = Waiter(attempt, row[7].timestamp(), row[8], present=row[9] is None)
    return Waiting(waiter, row[6], row[7], row[9], row[9] is not None and row[9] < now, row[10], row[11])


def _tenant(row: Sequence[Any], every: frozenset[int]) -> TenantView:
    changes: dict[str, int] = row[18] or {}

    def now_in_force(field: str, value: int | None) -> int | None:
        return None if value is None else max(0, value + changes.get(field, 0))

    return TenantView(
        id=row[0],
        suspended=row[1] != "active",
        limit=now_in_force("max_concurrent_sessions", row[2]),
        user_limit=now_in_force("max_sessions_per_user", row[3]),
        used=row[7],
        backends=frozenset(row[9]) if row[9] else every,
        burst=now_in_force("burst", row[10]) or 0,
        rate=now_in_force("sessions_per_minute", row[11]),
        user_rate=now_in_force("user_sessions_per_minute", row[12]),
        priority=row[13],
        weight=row[14],
        max_queue_length=now_in_force("max_queue_length", row[15]),
        max_queue_wait_s=row[16],
        queued=row[17],
    )


def _rate_key(tenant_id: int, user: str) -> RateKey:
    return ("user", tenant_id, user) if user else ("tenant", tenant_id)


def _names(value: object, kind: type[dict[Any, Any] | list[Any]]) -> frozenset[str]:
    """Return the names in a JSON field; none where raw SQL put nonsense there, so that this backend alone pays for it."""
    return frozenset(each for each in value if isinstance(each, str)) if isinstance(value, kind) else frozenset()
