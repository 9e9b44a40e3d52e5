"""What a batch of the ledger is decided in: the rows of its first round trip, read into values.

Owns: the meaning of each loaded column (``ledger_sql`` has the same order). Refuses: a connection, and deciding anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sessions_app.domain.admission import BackendView, TenantView, World
from sessions_app.domain.operations import BackendRef, Policy
from sessions_app.domain.states import State


@dataclass(slots=True)
class Held:
    """A slot as it was loaded, and as the batch has changed it since."""

    session_id: UUID
    tenant_id: int
    backend_id: int
    user: str
    state: State
    node_id: UUID | None
    lease_until: datetime | None
    expired: bool
    loaded: State
    generation: int = 1
    floor: int = 1
    stale_uses: int = 0
    dropped_at: datetime | None = None
    reason: str = ""
    detail: str = ""
    pipeline: str = ""  # where a move changed it
    activated: bool = False
    over: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """A session that has a record."""

    state: State
    node_id: UUID | None
    pipeline: str
    tenant_id: int
    user: str
    backend: BackendRef | None
    transport: str = ""
    active_at: datetime | None = None
    metadata: Mapping[str, object] | None = None  # only where a client comes back


@dataclass(slots=True)
class Loaded:
    """The world under the locks."""

    seq: int
    now: datetime
    world: World
    platform_limit: int | None
    known: dict[UUID, Known]
    held: dict[UUID, Held]
    policies: dict[int, Policy]
    refs: dict[int, BackendRef]
    counters: set[tuple[str, int]]
    unlocked: bool  # a slot came between the locks and the look: its tenant is not locked

    @classmethod
    def from_rows(
        cls,
        *,
        seq: int,
        now: datetime,
        locked_tenants: set[int],
        locked_backends: set[int],
        sessions: Iterable[Sequence[Any]],
        slots: Sequence[Sequence[Any]],
        tenants: Sequence[Sequence[Any]],
        backends: Sequence[Sequence[Any]],
        platform_limit: int | None,
        platform_used: int,
        users: Iterable[Sequence[Any]],
    ) -> "Loaded":
        """Read the rows of ``ledger_sql``. A backend that was enabled after the locks were taken waits for the next batch."""
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
            )
            for row in backends
            if row[0] in locked_backends and row[5]
        }
        tenant_views = {
            row[0]: TenantView(
                id=row[0],
                suspended=row[1] != "active",
                limit=row[2],
                user_limit=row[3],
                used=row[7],
                backends=frozenset(row[9] or views),
            )
            for row in tenants
        }
        return cls(
            seq=seq,
            now=now,
            world=World(platform_limit, platform_used, views, tenant_views, {(row[0], row[1]): row[2] for row in users}),
            platform_limit=platform_limit,
            known={
                row[0]: Known(State(row[1]), row[2], row[3], row[4], row[5], BackendRef(*row[6:9]) if row[6] else None, *row[9:12])
                for row in sessions
            },
            held={
                row[0]: Held(row[0], row[1], row[2], row[3], State(row[4]), row[5], row[6], bool(row[7]), State(row[4]), *row[8:12])
                for row in slots
            },
            policies={row[0]: Policy(*row[4:7]) for row in tenants},
            refs={row[0]: BackendRef(*row[:3]) for row in backends},
            counters={("tenant", row[0]) for row in tenants if row[8]} | {("backend", row[0]) for row in backends if row[10]},
            unlocked=any(row[1] not in locked_tenants for row in slots),
        )


def _names(value: object, kind: type[dict[Any, Any] | list[Any]]) -> frozenset[str]:
    """Return the names in a JSON field; none where raw SQL put nonsense there, so that this backend alone pays for it."""
    return frozenset(each for each in value if isinstance(each, str)) if isinstance(value, kind) else frozenset()
