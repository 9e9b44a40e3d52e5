"""What a decision depends on, as values: backends, tenants, who asks, and who waits unseen. The counts move as a batch is decided.

Owns: that a slot taken or given back is counted in every scope. Refuses: deciding anything, and to read a clock or a database.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sessions_app.domain.rates import Bucket, RateKey
from sessions_app.domain.reservations import Reservations
from sessions_app.domain.states import Reason


class Scope(StrEnum):
    """What a limit is set on."""

    PLATFORM = "platform"
    BACKEND = "backend"
    TENANT = "tenant"
    USER = "user"


@dataclass(slots=True)
class BackendView:
    """A backend as the decision sees it. ``used`` and ``reservations`` are changed by the decision as it hands out slots."""

    id: int
    name: str
    cap: int | None
    weight: int
    used: int
    healthy: bool
    draining: bool
    pipelines: frozenset[str]
    transports: frozenset[str]
    burst_below: float = 1.0
    reservations: Reservations = field(default_factory=Reservations)

    @property
    def full(self) -> bool:
        """Whether one more would exceed the cap."""
        return self.cap is not None and self.used >= self.cap

    def kept_from(self, tenant_id: int) -> int:
        """Return how many slots are kept free for other tenants; without a cap there is nothing to keep."""
        return self.reservations.kept_from(tenant_id) if self.reservations.unused and self.cap is not None else 0

    def full_for(self, tenant_id: int) -> bool:
        """Whether this tenant finds no room: at the cap, or what is left is kept for others."""
        return self.cap is not None and self.used + self.kept_from(tenant_id) >= self.cap

    @property
    def calm(self) -> bool:
        """Whether it is used so little that tenants may go above their limits."""
        # Divided, since 0.7 * 10 is more than 7.
        return self.cap is None or (self.cap > 0 and self.used / self.cap < self.burst_below)

    def count(self, tenant_id: int, change: int) -> None:
        """Note that the tenant has ``change`` more sessions here, or fewer."""
        self.used += change
        self.reservations.count(tenant_id, change)


@dataclass(slots=True)
class TenantView:
    """A tenant with the limits in force and what it uses. ``backends`` are the ids it may use; None is unlimited.

    ``rate`` and ``user_rate`` are new sessions a minute; ``queued`` is how many of its sessions wait (``max_queue_length`` 0: none may).
    What it reserved is with the backend that it is reserved on.
    """

    id: int
    suspended: bool
    limit: int | None
    user_limit: int | None
    used: int
    backends: frozenset[int]
    burst: int = 0
    rate: int | None = None
    user_rate: int | None = None
    priority: int = 0
    weight: int = 1
    max_queue_length: int | None = 0
    max_queue_wait_s: int | None = None
    queued: int = 0

    @property
    def at_limit(self) -> bool:
        """Whether one more is a burst."""
        return self.limit is not None and self.used >= self.limit

    @property
    def full(self) -> bool:
        """Whether no burst helps any more."""
        return self.limit is not None and self.used >= self.limit + self.burst


class Unseen(NamedTuple):
    """Those in a tenant's queue who ask for what ``attempt`` does and stand behind ``since`` and ``place``: nobody has looked at them."""

    attempt: "Attempt"
    since: float
    place: int


class Other(NamedTuple):
    """A tenant that is not in the world has somebody who waits and may go to this backend; ``burst``: only above its limit."""

    tenant_id: int
    backend_id: int
    burst: bool


_Wish = tuple[frozenset[int], str, str, str, frozenset[int]]


@dataclass(slots=True)
class World:
    """Everything that a decision depends on. The counts move as the batch is decided.

    ``now`` is in seconds, of the clock that waiters' and buckets' times are in. A rate without a bucket in ``rates`` has a full one.
    Buckets that the decision changed are named in ``spent_rates``. ``unseen`` and ``others`` are who else waits, as far as that is known.
    """

    platform_limit: int | None
    platform_used: int
    backends: Mapping[int, BackendView]
    tenants: Mapping[int, TenantView]
    user_used: dict[tuple[int, str], int] = field(default_factory=dict)
    now: float = 0.0
    rates: dict[RateKey, Bucket] = field(default_factory=dict)
    spent_rates: set[RateKey] = field(default_factory=set)
    unseen: list[Unseen] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    # What ``usable`` found, by who asks for what: a stampede asks for the same again and again, and what it depends on stands still.
    found: dict[_Wish, tuple[list[BackendView], Reason | None]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def full(self) -> bool:
        """Whether the platform's limit is reached."""
        return self.platform_limit is not None and self.platform_used >= self.platform_limit

    def release(self, *, tenant_id: int, backend_id: int, user: str) -> None:
        """Note that a session is over, before the batch is decided."""
        self._count(tenant_id, backend_id, user, -1)

    def take(self, *, tenant_id: int, backend_id: int, user: str) -> None:
        """Note that a session has a slot."""
        self._count(tenant_id, backend_id, user, 1)

    def _count(self, tenant_id: int, backend_id: int, user: str, change: int) -> None:
        self.platform_used += change
        if (backend := self.backends.get(backend_id)) is not None:
            backend.count(tenant_id, change)
        if (tenant := self.tenants.get(tenant_id)) is not None:
            tenant.used += change
        used = self.user_used.get(key := (tenant_id, user))
        if used is not None or change > 0:  # of whom nobody asks nothing was loaded
            self.user_used[key] = (used or 0) + change


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a caller asks for. Empty ``pipeline`` or ``backend``: any. ``exclude`` are backends that just failed to open."""

    session_id: UUID
    tenant_id: int
    user: str
    pipeline: str = ""
    transport: str = "websocket"
    backend: str = ""
    exclude: frozenset[int] = frozenset()
