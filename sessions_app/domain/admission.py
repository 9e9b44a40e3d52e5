"""The one decision: may this session start now? Pure: a batch of attempts and the world in, one verdict each out.

Owns: the order of the checks, the choice of backend, the limit vector that explains each verdict.
Refuses: to read a clock, a database or a setting; everything it needs is in its arguments. It is called with the locks of
every scope held (``services.ledger``), so what it counts cannot change under it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

from sessions_app.domain.states import Reason

RETRY_AT_CAPACITY_S: Final = 5  # nobody can know when somebody hangs up; short enough to be useful, long enough not to hammer
RETRY_NO_BACKEND_S: Final = 10  # one period of the probes


class Scope(StrEnum):
    """What a limit is set on."""

    PLATFORM = "platform"
    BACKEND = "backend"
    TENANT = "tenant"
    USER = "user"


@dataclass(frozen=True, slots=True)
class Limit:
    """One entry of a limit vector: sessions in use before this attempt, and the limit in force (None: unlimited)."""

    scope: Scope
    used: int
    limit: int | None

    @property
    def full(self) -> bool:
        """Whether one more would exceed the limit."""
        return self.limit is not None and self.used >= self.limit


@dataclass(slots=True)
class BackendView:
    """A backend as the decision sees it. ``used`` is changed by the decision as it hands out slots."""

    id: int
    name: str
    cap: int | None
    weight: int
    used: int
    healthy: bool
    draining: bool
    pipelines: frozenset[str]
    transports: frozenset[str]

    @property
    def full(self) -> bool:
        """Whether one more would exceed the cap."""
        return self.cap is not None and self.used >= self.cap


@dataclass(slots=True)
class TenantView:
    """A tenant with the limits in force and what it uses. ``backends`` are the ids it may use."""

    id: int
    suspended: bool
    limit: int | None
    user_limit: int | None
    used: int
    backends: frozenset[int]


@dataclass(slots=True)
class World:
    """Everything that a decision depends on. The counts move as the batch is decided."""

    platform_limit: int | None
    platform_used: int
    backends: Mapping[int, BackendView]
    tenants: Mapping[int, TenantView]
    user_used: dict[tuple[int, str], int] = field(default_factory=dict)


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


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer: admitted on ``backend_id`` when ``reason`` is None, refused for ``reason`` otherwise."""

    reason: Reason | None
    limits: tuple[Limit, ...]
    backend_id: int | None = None
    pipeline: str = ""
    retry_after_s: int | None = None

    @property
    def admitted(self) -> bool:
        """Whether the session has a slot."""
        return self.reason is None


def decide(world: World, attempts: Iterable[Attempt]) -> list[Verdict]:
    """Decide a batch in its order; each admitted attempt counts for the ones after it."""
    return [_decide_one(world, attempt) for attempt in attempts]


def choose_other_backend(world: World, attempt: Attempt) -> Verdict:
    """Decide where a session that already holds a slot may move; its tenant, user and platform slots stay its own."""
    backend, reason = _choose(world, world.tenants[attempt.tenant_id], attempt)
    if backend is None or reason is not None:
        return _refused(reason or Reason.BACKEND_UNHEALTHY, _vector(world, attempt, backend))
    verdict = _admitted(world, attempt, backend)
    backend.used += 1
    return verdict


def _decide_one(world: World, attempt: Attempt) -> Verdict:
    tenant = world.tenants[attempt.tenant_id]
    if tenant.suspended:
        return _refused(Reason.TENANT_SUSPENDED, _vector(world, attempt, None))
    backend, no_backend = _choose(world, tenant, attempt)
    limits = _vector(world, attempt, backend)
    if no_backend is not None and no_backend is not Reason.BACKEND_LIMIT:
        return _refused(no_backend, limits)
    for entry in limits:
        if entry.full:
            return _refused(_FULL[entry.scope], limits)
    if backend is None:
        return _refused(Reason.BACKEND_UNHEALTHY, limits)
    verdict = _admitted(world, attempt, backend)
    backend.used += 1
    tenant.used += 1
    world.platform_used += 1
    world.user_used[attempt.tenant_id, attempt.user] = world.user_used.get((attempt.tenant_id, attempt.user), 0) + 1
    return verdict


# The narrowest scope is named first: it is the one that the asker can do something about.
_FULL: Final = {
    Scope.USER: Reason.USER_LIMIT,
    Scope.TENANT: Reason.SESSION_LIMIT,
    Scope.BACKEND: Reason.BACKEND_LIMIT,
    Scope.PLATFORM: Reason.PLATFORM_LIMIT,
}


def _vector(world: World, attempt: Attempt, backend: BackendView | None) -> tuple[Limit, ...]:
    tenant = world.tenants[attempt.tenant_id]
    entries = [
        Limit(Scope.USER, world.user_used.get((attempt.tenant_id, attempt.user), 0), tenant.user_limit),
        Limit(Scope.TENANT, tenant.used, tenant.limit),
        Limit(Scope.PLATFORM, world.platform_used, world.platform_limit),
    ]
    if backend is not None:
        entries.insert(2, Limit(Scope.BACKEND, backend.used, backend.cap))
    return tuple(entries)


def _choose(world: World, tenant: TenantView, attempt: Attempt) -> tuple[BackendView | None, Reason | None]:
    """Return the backend to use, or the reason why there is none (with the backend that is full, where that is it)."""
    allowed = [world.backends[each] for each in tenant.backends if each in world.backends]
    if attempt.backend:
        allowed = [each for each in allowed if each.name == attempt.backend]
        if not allowed:
            return None, Reason.AUTHORIZATION_FAILED
    fitting = [each for each in allowed if _fits(each, attempt)]
    if not fitting:
        return None, Reason.PROVIDER_NOT_FOUND
    healthy = [each for each in fitting if each.healthy and each.id not in attempt.exclude]
    if not healthy:
        return None, Reason.BACKEND_UNHEALTHY
    usable = [each for each in healthy if not each.draining]
    if not usable:
        return None, Reason.BACKEND_DRAINING
    best = min(usable, key=_load)
    return best, Reason.BACKEND_LIMIT if best.full else None


def _fits(backend: BackendView, attempt: Attempt) -> bool:
    pipeline = attempt.pipeline in backend.pipelines if attempt.pipeline else bool(backend.pipelines)
    return pipeline and attempt.transport in backend.transports


def _load(backend: BackendView) -> tuple[bool, float, int]:
    """Least loaded for its weight first: the share of the cap in use where there is one, sessions where not."""
    share = backend.used / backend.cap if backend.cap else float(backend.used)
    return backend.full or backend.weight == 0, share / (backend.weight or 1), backend.id


def _admitted(world: World, attempt: Attempt, backend: BackendView) -> Verdict:
    pipeline = attempt.pipeline or min(backend.pipelines)
    return Verdict(None, _vector(world, attempt, backend), backend.id, pipeline)


def _refused(reason: Reason, limits: tuple[Limit, ...]) -> Verdict:
    if reason in _FULL.values():
        return Verdict(reason, limits, retry_after_s=RETRY_AT_CAPACITY_S)
    if reason in {Reason.BACKEND_UNHEALTHY, Reason.BACKEND_DRAINING}:
        return Verdict(reason, limits, retry_after_s=RETRY_NO_BACKEND_S)
    return Verdict(reason, limits)
