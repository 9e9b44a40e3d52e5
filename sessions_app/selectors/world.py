"""The world that a decision depends on, as the database has it: limits in force, counters, health, reservations, rates, who waits.

Owns: what each column of ``voice_world`` (a function that migrations define) means. The ledger calls it under its locks; others (an
explanation, the places in the queue) without.
Refuses: locks, and writing. Limits: of each tenant's waiters the first few, of all tenants' waiters those whose tenants are asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from sessions_app.domain.operations import BackendRef, Policy
from sessions_app.domain.queueing import Waiter
from sessions_app.domain.rates import Bucket, RateKey
from sessions_app.domain.reservations import Reservations
from sessions_app.domain.world import Attempt, BackendView, TenantView, World

_WORLD: Final = "SELECT voice_world(%s, %s, %s::bigint[], %s::bigint[], %s::text[])::text"
WAITER_COLUMNS: Final = """w.session_id, w.tenant_id, w."user", w.pipeline, w.transport, w.backend_name, w.node_id, w.since, w.place,
       w.absent_until, w.generation, w.resume_floor"""
# The first of each tenant, with the number of its user's sessions where that matters.
WAITERS: Final = f"""
SELECT {WAITER_COLUMNS}, CASE WHEN q.max_sessions_per_user IS NOT NULL THEN
       (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = w.tenant_id AND s."user" = w."user") END
FROM unnest(%(tenants)s::bigint[]) AS t(id) JOIN tenants_quota q ON q.tenant_id = t.id
JOIN sessions_app_capacity c ON c.scope = 'tenant' AND c.ref = t.id AND c.queued > 0
CROSS JOIN LATERAL (SELECT * FROM sessions_app_waiter w WHERE w.tenant_id = t.id AND (w.absent_until IS NULL OR %(absent)s)
                    ORDER BY w.since, w.place LIMIT %(waiters)s) AS w"""  # noqa: S608 - of constants

WaiterRow = tuple[
    UUID, int, str, str, str, str, UUID | None, datetime, int, datetime | None, int, int, int | None
]  # ``WAITER_COLUMNS`` and the user's sessions


class Rows(msgspec.Struct):
    """What ``voice_world`` returns: a list of columns for each row, None where there is none."""

    tenants: list[list[Any]] | None
    backends: list[list[Any]] | None
    platform: tuple[int | None, int]
    asking: list[tuple[int, str, int, float | None, float | None]] | None
    reservations: list[tuple[int, int, int, int]] | None


_DECODER: Final = msgspec.json.Decoder(Rows)


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


def scene(rows: Rows, *, now: datetime, usable: set[int] | None = None) -> Scene:
    """Read the rows. Backends that are not in ``usable`` (None: all are) are left out: they were enabled after the locks were taken."""
    reserved: dict[int, dict[int, tuple[int, int]]] = {}
    for tenant_id, backend_id, slots, used in rows.reservations or ():
        reserved.setdefault(backend_id, {})[tenant_id] = (slots, used)
    tenants, backends = rows.tenants or (), rows.backends or ()
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
        platform_limit=rows.platform[0],
        platform_used=rows.platform[1],
        backends=views,
        tenants={row[0]: _tenant(row, every) for row in tenants},
        user_used={(tenant_id, user): used for tenant_id, user, used, _, _ in rows.asking or () if used},
        now=now.timestamp(),
        rates={
            _rate_key(tenant_id, user): Bucket(tokens, at)
            for tenant_id, user, _, tokens, at in rows.asking or ()
            if tokens is not None and at is not None
        },
    )
    return Scene(
        world=world,
        policies={row[0]: Policy(*row[4:7]) for row in tenants},
        refs={row[0]: BackendRef(*row[:3]) for row in backends},
        counters={("tenant", row[0]) for row in tenants if row[8]} | {("backend", row[0]) for row in backends if row[10]},
    )


def read(
    cursor: Any, *, now: datetime, stale_s: float, tenants: Iterable[int], user_tenants: Sequence[int] = (), users: Sequence[str] = ()
) -> Scene:
    """Read the scene without locks.

    Args:
        cursor: Django's, in a transaction.
        now: The database's clock.
        stale_s: How old a probe may be, in seconds.
        tenants: Ids of those that are wanted.
        user_tenants: With ``users`` in pairs: whose use and rates are wanted.
        users: See above.
    """
    cursor.execute(_WORLD, (now, stale_s, list(tenants), *asking(zip(user_tenants, users, strict=True))))
    return scene(_DECODER.decode(cursor.fetchall()[0][0]), now=now)


def asking(pairs: Iterable[tuple[int, str]]) -> tuple[list[int], list[str]]:
    """Return what ``voice_world`` is asked of these users of these tenants: what they have, and what the tenants have for all of theirs."""
    wanted = set(pairs)
    wanted |= {(tenant_id, "") for tenant_id, _ in wanted}
    return [tenant_id for tenant_id, _ in wanted], [user for _, user in wanted]


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
