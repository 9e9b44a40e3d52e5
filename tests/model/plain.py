"""What the ledger is compared with: one dictionary of sessions, and every figure counted from it anew each time that it is needed.

Owns: what a limit in force is, who fits, why somebody does not, who is promoted next. It shares no code with the product but the names
of states, reasons and operations. It keeps no counter, no index and no order; it is slow, and meant to be.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Attempt

HOLDING = {State.STARTING, State.ACTIVE, State.RECONNECTING}
AT_CAPACITY = {Reason.USER_LIMIT, Reason.SESSION_LIMIT, Reason.BACKEND_LIMIT, Reason.PLATFORM_LIMIT}
STEP = timedelta(seconds=30)


@dataclass
class Override:
    tenant: int
    field: str
    change: int
    starts: datetime
    ends: datetime


@dataclass
class Tenant:
    id: int
    quota: dict[str, Any]
    suspended: bool = False
    access: set[int] = field(default_factory=set)


@dataclass
class Backend:
    id: int
    name: str
    cap: int | None
    pipelines: set[str]
    transports: set[str]
    enabled: bool = True
    draining: bool = False
    healthy: bool = True
    burst_below: float = 1.0


@dataclass
class Session:
    attempt: Attempt
    state: State
    node: UUID | None
    arrival: int  # who came before whom
    since: datetime
    backend: int | None = None
    reason: str = ""
    burst: bool = False
    lease: datetime | None = None  # of a slot while reconnecting, of a place while its client is away
    generation: int = 1
    floor: int = 1

    @property
    def tenant(self) -> int:
        return self.attempt.tenant_id

    @property
    def user(self) -> str:
        return self.attempt.user


@dataclass
class Answer:
    """What an attempt should be told: ``may`` are the backends that are right, where it is let in."""

    reason: Reason | None
    may: set[int] = field(default_factory=set)
    queued: bool = False


@dataclass
class Plain:
    """Everything that is known. ``now`` is the database's time of the batch that is looked at."""

    now: datetime
    tenants: dict[int, Tenant] = field(default_factory=dict)
    backends: dict[int, Backend] = field(default_factory=dict)
    overrides: list[Override] = field(default_factory=list)
    platform: int | None = None
    sessions: dict[UUID, Session] = field(default_factory=dict)
    buckets: dict[tuple[int, str], tuple[float, datetime]] = field(default_factory=dict)

    # --- counting ----------------------------------------------------------------------------------------------------------
    def holding(self, *, tenant: int | None = None, backend: int | None = None, user: str | None = None) -> int:
        return sum(
            each.state in HOLDING
            and (tenant is None or each.tenant == tenant)
            and (backend is None or each.backend == backend)
            and (user is None or each.user == user)
            for each in self.sessions.values()
        )

    def waiting(self, tenant: int | None = None) -> list[Session]:
        return [each for each in self.sessions.values() if each.state is State.QUEUED and tenant in {None, each.tenant}]

    def limit(self, tenant: int, name: str) -> int | None:
        """Return the figure in force: the quota's and what overrides add to it just now."""
        base: int | None = self.tenants[tenant].quota[name]
        if base is None:
            return None
        now = sum(each.change for each in self.overrides if (each.tenant, each.field) == (tenant, name) and self._is_now(each))
        return max(0, base + now)

    def _is_now(self, override: Override) -> bool:
        return override.starts <= self.now < override.ends

    # --- room --------------------------------------------------------------------------------------------------------------
    def reserved_on(self, tenant: int) -> int | None:
        named = self.tenants[tenant].quota["reserved_backend"]
        if named:
            return next((each.id for each in self.backends.values() if each.name == named), None)
        own = self.tenants[tenant].access or {each.id for each in self.backends.values() if each.enabled}
        return min(own, default=None)

    def reserved(self, backend: int) -> int:
        return sum(each.quota["reserved"] for each in self.tenants.values() if self.reserved_on(each.id) == backend)

    def has_room(self, backend: Backend, tenant: int) -> bool:
        if backend.cap is None:
            return True
        kept: int = sum(
            max(0, each.quota["reserved"] - self.holding(tenant=each.id, backend=backend.id))
            for each in self.tenants.values()
            if each.id != tenant and self.reserved_on(each.id) == backend.id
        )
        return self.holding(backend=backend.id) + kept < backend.cap

    def is_calm(self, backend: Backend) -> bool:
        return backend.cap is None or (backend.cap > 0 and self.holding(backend=backend.id) / backend.cap < backend.burst_below)

    def backends_for(self, attempt: Attempt) -> list[Backend] | Reason:
        """Return the backends that could carry it if they had room, or why there is none."""
        own = self.tenants[attempt.tenant_id].access or set(self.backends)
        found = [each for each in self.backends.values() if each.enabled and each.id in own]
        if attempt.backend:
            found = [each for each in found if each.name == attempt.backend]
            if not found:
                return Reason.AUTHORIZATION_FAILED
        found = [
            each
            for each in found
            if (attempt.pipeline in each.pipelines if attempt.pipeline else each.pipelines) and attempt.transport in each.transports
        ]
        if not found:
            return Reason.PROVIDER_NOT_FOUND
        found = [each for each in found if each.healthy and each.id not in attempt.exclude]
        if not found:
            return Reason.BACKEND_UNHEALTHY
        return [each for each in found if not each.draining] or Reason.BACKEND_DRAINING

    def fits(self, attempt: Attempt) -> Answer:  # noqa: PLR0911
        """Say whether it could have a slot now, with no look at rates."""
        tenant = attempt.tenant_id
        if self.tenants[tenant].suspended:
            return Answer(Reason.TENANT_SUSPENDED)
        backends = self.backends_for(attempt)
        if isinstance(backends, Reason):
            return Answer(backends)
        free = [each for each in backends if self.has_room(each, tenant)]
        of_user, limit = self.limit(tenant, "max_sessions_per_user"), self.limit(tenant, "max_concurrent_sessions")
        used = self.holding(tenant=tenant)
        if of_user is not None and self.holding(tenant=tenant, user=attempt.user) >= of_user:
            return Answer(Reason.USER_LIMIT)
        if limit is not None and used >= limit:
            calm = [each for each in free or backends if self.is_calm(each)]
            if not calm or used >= limit + (self.limit(tenant, "burst") or 0):
                return Answer(Reason.SESSION_LIMIT)
            free = [each for each in calm if each in free]
        if not free:
            return Answer(Reason.BACKEND_LIMIT)
        if self.platform is not None and self.holding() >= self.platform:
            return Answer(Reason.PLATFORM_LIMIT)
        return Answer(None, {each.id for each in free})

    def check_caps(self, new: Session, *, moved: bool) -> None:
        """Whatever got in just now is within every cap in force, counted after all that the batch did."""
        tenant, user = new.tenant, new.user
        limit = self.limit(tenant, "max_concurrent_sessions")
        within = [(self.holding(backend=new.backend), self.backends[new.backend or 0].cap)]
        if not moved:
            within += [
                (self.holding(tenant=tenant), None if limit is None else limit + (self.limit(tenant, "burst") or 0)),
                (self.holding(tenant=tenant, user=user), self.limit(tenant, "max_sessions_per_user")),
                (self.holding(), self.platform),
            ]
        assert all(most is None or used <= most for used, most in within), within

    def other_backend(self, session: Session, attempt: Attempt) -> Answer:
        """Say where a session that has a slot may go."""
        backends = self.backends_for(attempt)
        if isinstance(backends, Reason):
            return Answer(backends)
        free = {each.id for each in backends if self.has_room(each, session.tenant)}
        return Answer(None, free) if free else Answer(Reason.BACKEND_LIMIT)

    # --- a new attempt -------------------------------------------------------------------------------------------------------
    def judge(self, attempt: Attempt, *, gone: Reason | None = None) -> Answer:
        """Say what a new attempt should be told; a token is spent where it gets in or waits.

        Args:
            attempt: The attempt.
            gone: As if the slot that it could have were another's: the limit that it met.
        """
        answer, tenant = self.fits(attempt), attempt.tenant_id
        if gone is not None:
            assert answer.reason is None
            answer = Answer(gone)
        if answer.reason in AT_CAPACITY:
            longest = self.limit(tenant, "max_queue_length")
            if longest == 0:
                return answer
            if longest is not None and len(self.waiting(tenant)) >= longest:
                return Answer(Reason.QUEUE_FULL)
            answer.queued = True
        elif answer.reason is not None:
            return answer
        rates = {(tenant, ""): self.limit(tenant, "sessions_per_minute")}
        rates[tenant, attempt.user] = self.limit(tenant, "user_sessions_per_minute")
        left = {key: self._tokens(key, rate) for key, rate in rates.items() if rate is not None}
        if any(each < 1 - 1e-6 for each in left.values()):
            return Answer(Reason.RATE_LIMIT)
        for key, tokens in left.items():
            self.buckets[key] = tokens - 1, self.now
        return answer

    def _tokens(self, key: tuple[int, str], rate: int) -> float:
        if key not in self.buckets:
            return rate
        tokens, at = self.buckets[key]
        return min(rate, tokens + (self.now - at).total_seconds() * rate / 60)

    # --- a look that ends before the queue does ----------------------------------------------------------------------------
    def overtaken(self, attempt: Attempt, backend: int | None) -> list[Session]:
        """Return who waits and could have the slot that the attempt would take on this backend."""
        capped = backend is not None and self.backends[backend].cap is not None
        return [
            each
            for each in self.waiting()
            if each.lease is None
            and (answer := self.fits(each.attempt)).reason is None
            and (each.tenant == attempt.tenant_id or self.platform is not None or (capped and backend in answer.may))
        ]

    def may_be_overtaken(self) -> bool:
        """Whether somebody waits for whom some backend has room: whether limits of its own hold it back is known of whom was looked at."""
        here = [each.attempt for each in self.waiting() if each.lease is None and not self.tenants[each.tenant].suspended]
        found = [(each.tenant_id, self.backends_for(each)) for each in here]
        return any(self.has_room(one, tenant) for tenant, some in found if not isinstance(some, Reason) for one in some)

    def follow(self, promoted: Iterable[UUID], chosen: Callable[[UUID], int | None]) -> None:
        """Let in who was promoted: each of them fits, and nobody of its tenant who came before it does."""
        for key in promoted:
            session = self.sessions[key]
            assert (session.state, session.lease) == (State.QUEUED, None)
            answer = self.fits(session.attempt)
            assert answer.reason is None, f"{session} was promoted, and does not fit: {answer.reason}"
            came = session.since, session.arrival
            first = [each for each in self.waiting(session.tenant) if each.lease is None and (each.since, each.arrival) < came]
            first = [each for each in first if self.fits(each.attempt).reason is None]
            assert not first, f"{session} was promoted before {first}"
            self.give(session, chosen(key), answer.may)

    # --- the queue -----------------------------------------------------------------------------------------------------------
    def order(self, session: Session) -> tuple[float, float, datetime, int, int]:
        """Return what the waiters are sorted by: priority with its steps, the tenant's share of its weight, first come."""
        quota = self.tenants[session.tenant].quota
        steps = (self.now - session.since) // STEP
        share = self.holding(tenant=session.tenant) / quota["weight"]
        return -(quota["priority"] + steps), share, session.since, session.arrival, session.tenant

    def next_promotion(self) -> tuple[Session, set[int]] | None:
        """Return the first in the order who fits, and the backends that are right for it."""
        for each in sorted(self.waiting(), key=self.order):
            if each.lease is None and (answer := self.fits(each.attempt)).reason is None:
                return each, answer.may
        return None

    def promote(self, chosen: Callable[[UUID], int | None]) -> Iterator[UUID]:
        """Let in who is next, again and again, each on the backend that the ledger chose, if it is right."""
        while (found := self.next_promotion()) is not None:
            session, may = found
            yield session.attempt.session_id
            self.give(session, chosen(session.attempt.session_id), may)

    def give(self, session: Session, backend: int | None, may: set[int]) -> None:
        assert backend in may, f"{session.attempt} is on backend {backend}, may be on {may}"
        limit = self.limit(session.tenant, "max_concurrent_sessions")
        session.burst = limit is not None and self.holding(tenant=session.tenant) >= limit
        session.state, session.reason, session.backend = State.STARTING, "", backend
