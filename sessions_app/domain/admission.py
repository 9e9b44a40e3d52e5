"""The one decision: may this session start now? Pure: a batch of attempts and the world in, one verdict each out.

Owns: the order of the checks, the choice of backend, reservations and bursts, the limit vector that explains each verdict, and
whether an attempt that does not fit now may wait.
Refuses: to read a clock, a database or a setting; everything it needs is in its arguments. It is called with the locks of
every scope held (``services.ledger``), so what it counts cannot change under it.
"""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Final

import msgspec

from sessions_app.domain import rates
from sessions_app.domain.rates import RateKey
from sessions_app.domain.states import Reason
from sessions_app.domain.world import Attempt, BackendView, Scope, TenantView, Unseen, World

RETRY_AT_CAPACITY_S: Final = 5  # nobody can know when somebody hangs up; short enough to be useful, long enough not to hammer
RETRY_NO_BACKEND_S: Final = 10  # one period of the probes


class Limit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of a limit vector: sessions in use before this attempt, and the limit in force (None: unlimited).

    ``reserved``: slots of the backend that are kept free for other tenants. ``burst``: sessions that the tenant may have above its
    limit right now.
    """

    scope: Scope
    used: int
    limit: int | None
    reserved: int = 0
    burst: int = 0

    @property
    def full(self) -> bool:
        """Whether one more would exceed the limit."""
        return self.limit is not None and self.used + self.reserved >= self.limit + self.burst


class Verdict(msgspec.Struct, frozen=True):
    """The answer: admitted on ``backend_id`` when ``reason`` is None; else refused for ``reason``, or ``queued`` because of it.

    ``burst`` marks a session above its tenant's limit. ``rate`` is the scope whose rate of new sessions is used up, if that is why.
    """

    reason: Reason | None
    limits: tuple[Limit, ...]
    backend_id: int | None = None
    pipeline: str = ""
    retry_after_s: int | None = None
    queued: bool = False
    burst: bool = False
    rate: Scope | None = None

    @property
    def admitted(self) -> bool:
        """Whether the session has a slot."""
        return self.reason is None


# The narrowest scope is named first: it is the one that the asker can do something about.
_FULL: Final = {
    Scope.USER: Reason.USER_LIMIT,
    Scope.TENANT: Reason.SESSION_LIMIT,
    Scope.BACKEND: Reason.BACKEND_LIMIT,
    Scope.PLATFORM: Reason.PLATFORM_LIMIT,
}
AT_CAPACITY: Final = frozenset(_FULL.values())
_USER, _TENANT, _BACKEND, _PLATFORM = Scope.USER, Scope.TENANT, Scope.BACKEND, Scope.PLATFORM  # a member is looked up more slowly


def decide(world: World, attempts: Iterable[Attempt]) -> list[Verdict]:
    """Decide a batch in its order; each admitted or queued attempt counts for the ones after it.

    Call ``queueing.promote`` first, with everybody who waits; then no new attempt overtakes anybody. Handing out slots only ever
    makes less room, so whoever still waits cannot be let in by this batch: the client is away, or a limit of its own user or tenant
    is reached, or no backend that it may use has room for it. A new attempt that fits now takes nothing that such a waiter could
    have: it is of another user, another tenant or asks for another backend; or the waiter's client is away, keeps its place, and
    is asked again with the next slot. Tenants without a queue have no precedence either: they too come after the promotions.

    Of a long queue only a part was looked at, and the promotions are not at its end. Then whoever would take a slot that one of the
    rest (``World.unseen``, ``World.others``) could have is answered as if that one had it: it waits, or is refused where it may not.

    What is refused spends no rate; what is admitted or queued needs a token of its tenant's and of its user's rate.
    """
    return [decide_one(world, attempt) for attempt in attempts]


def decide_one(world: World, attempt: Attempt) -> Verdict:
    """Decide the next attempt of a batch."""
    tenant = world.tenants[attempt.tenant_id]
    verdict = _look(world, tenant, attempt)
    overtaken = _overtaken(world, tenant, verdict) if world.unseen or world.others else None
    if overtaken is not None:
        verdict = _refused(overtaken, verdict.limits)
    if verdict.reason is not None:
        if verdict.reason in AT_CAPACITY:
            verdict = _queued(tenant, verdict)
        if not verdict.queued:
            return verdict
    short = _spend(world, tenant, attempt)
    if short is not None:
        return Verdict(Reason.RATE_LIMIT, verdict.limits, retry_after_s=short.wait_s, rate=Scope(short.key[0]))
    if verdict.backend_id is None:
        tenant.queued += 1
        if overtaken is not None:  # it could be let in, and nobody behind it may overtake it
            world.unseen.append(Unseen(attempt, inf, 0))
    else:
        world.take(tenant_id=tenant.id, backend_id=verdict.backend_id, user=attempt.user)
    return verdict


def admit(world: World, attempt: Attempt) -> Verdict:
    """Give the attempt a slot if there is one for it now, without a look at rates and queue lengths."""
    verdict = _look(world, world.tenants[attempt.tenant_id], attempt)
    if verdict.backend_id is not None:
        world.take(tenant_id=attempt.tenant_id, backend_id=verdict.backend_id, user=attempt.user)
    return verdict


def choose_other_backend(world: World, attempt: Attempt) -> Verdict:
    """Decide where a session that already holds a slot may move; its tenant, user and platform slots stay its own."""
    tenant = world.tenants[attempt.tenant_id]
    backend, reason = _choose(world, tenant, attempt, burst=False)
    if backend is None or reason is not None:
        return _refused(reason or Reason.BACKEND_UNHEALTHY, _vector(world, tenant, attempt, backend))
    verdict = Verdict(None, _vector(world, tenant, attempt, backend), backend.id, _pipeline(attempt, backend))
    backend.count(tenant.id, 1)
    return verdict


def fitting(world: World, tenant: TenantView, attempt: Attempt) -> tuple[list[BackendView], Reason | None]:
    """Return the backends that the tenant may use for what the attempt asks for, well or not; or the reason why there are none."""
    allowed = [world.backends[each] for each in tenant.backends if each in world.backends]
    if attempt.backend:
        allowed = [each for each in allowed if each.name == attempt.backend]
        if not allowed:
            return [], Reason.AUTHORIZATION_FAILED
    found = [each for each in allowed if _fits(each, attempt)]
    return found, None if found else Reason.PROVIDER_NOT_FOUND


def usable(world: World, tenant: TenantView, attempt: Attempt) -> tuple[list[BackendView], Reason | None]:
    """Return the backends that could carry the session if they had room, or the reason why there are none."""
    wish = (tenant.backends, attempt.pipeline, attempt.transport, attempt.backend, attempt.exclude)
    known = world.found.get(wish)
    if known is None:
        known = world.found[wish] = _usable(world, tenant, attempt)
    return known


def open_to(world: World, tenant: TenantView, attempt: Attempt) -> list[BackendView]:
    """Return the backends where there is room for what the attempt asks for, whoever of the tenant's users asks for it."""
    if tenant.suspended or tenant.full or world.full:
        return []
    burst = tenant.at_limit
    return [each for each in usable(world, tenant, attempt)[0] if not each.full_for(tenant.id) and (each.calm or not burst)]


def _usable(world: World, tenant: TenantView, attempt: Attempt) -> tuple[list[BackendView], Reason | None]:
    allowed, reason = fitting(world, tenant, attempt)
    if reason is not None:
        return [], reason
    healthy = [each for each in allowed if each.healthy and each.id not in attempt.exclude]
    if not healthy:
        return [], Reason.BACKEND_UNHEALTHY
    found = [each for each in healthy if not each.draining]
    return found, None if found else Reason.BACKEND_DRAINING


def _overtaken(world: World, tenant: TenantView, verdict: Verdict) -> Reason | None:
    """Return the limit that the attempt would meet if those who wait unseen had what they could have; None: it takes nothing from them."""
    if verdict.backend_id is None:
        return None
    backend = world.backends[verdict.backend_id]
    for each in world.unseen:
        other = world.tenants.get(each.attempt.tenant_id)
        places = open_to(world, other, each.attempt) if other is not None else []
        if other is tenant and places:
            return Reason.SESSION_LIMIT
        if (reason := _contended(world, backend, places)) is not None:
            return reason
    for one in world.others:
        place = world.backends.get(one.backend_id)
        free = place is not None and place.healthy and not place.full_for(one.tenant_id) and (place.calm or not one.burst)
        if place is not None and free and (reason := _contended(world, backend, [place])) is not None:
            return reason
    return None


def _contended(world: World, backend: BackendView, places: Sequence[BackendView]) -> Reason | None:
    """Return the limit for which somebody who may go to one of these places competes with who goes to this backend."""
    if backend.cap is not None and any(each is backend for each in places):
        return Reason.BACKEND_LIMIT
    return Reason.PLATFORM_LIMIT if places and world.platform_limit is not None else None


def _look(world: World, tenant: TenantView, attempt: Attempt) -> Verdict:
    """Say what would happen to the attempt, without rates and queue, and change nothing."""
    if tenant.suspended:
        return _refused(Reason.TENANT_SUSPENDED, _vector(world, tenant, attempt, None))
    at_limit = tenant.at_limit
    backend, no_backend = _choose(world, tenant, attempt, burst=at_limit)
    limits = _vector(world, tenant, attempt, backend)
    if backend is None:
        return _refused(no_backend or Reason.BACKEND_UNHEALTHY, limits)
    for each in limits:
        if (most := each.limit) is not None and each.used + each.reserved >= most + each.burst:  # ``full``, without a call
            return _refused(_FULL[each.scope], limits)
    return Verdict(None, limits, backend.id, _pipeline(attempt, backend), None, False, at_limit)


def _queued(tenant: TenantView, refused: Verdict) -> Verdict:
    if tenant.max_queue_length == 0:
        return refused
    if tenant.max_queue_length is not None and tenant.queued >= tenant.max_queue_length:
        return Verdict(Reason.QUEUE_FULL, refused.limits, retry_after_s=RETRY_AT_CAPACITY_S)
    return Verdict(refused.reason, refused.limits, queued=True)


def _spend(world: World, tenant: TenantView, attempt: Attempt) -> rates.Shortage | None:
    """Take a token of each rate in force, or of none where one is used up."""
    if tenant.rate is None and tenant.user_rate is None:
        return None
    wanted: list[tuple[RateKey, int]] = []
    if tenant.user_rate is not None:
        wanted.append((("user", tenant.id, attempt.user), tenant.user_rate))
    if tenant.rate is not None:
        wanted.append((("tenant", tenant.id), tenant.rate))
    short = rates.take(world.rates, wanted, world.now)
    if short is None:
        world.spent_rates.update([key for key, _ in wanted])
    return short


def _vector(world: World, tenant: TenantView, attempt: Attempt, backend: BackendView | None) -> tuple[Limit, ...]:
    burst = tenant.burst if tenant.burst and tenant.limit is not None and backend is not None and backend.calm else 0
    user = Limit(_USER, world.user_used.get((tenant.id, attempt.user), 0), tenant.user_limit)
    own = Limit(_TENANT, tenant.used, tenant.limit, 0, burst)
    platform = Limit(_PLATFORM, world.platform_used, world.platform_limit)
    if backend is None:
        return user, own, platform
    return user, own, Limit(_BACKEND, backend.used, backend.cap, backend.kept_from(tenant.id)), platform


def _choose(world: World, tenant: TenantView, attempt: Attempt, *, burst: bool) -> tuple[BackendView | None, Reason | None]:
    """Return the backend to use, or the reason why there is none (with the backend that is full, where that is it).

    One that is full for this tenant is passed over, and so is one where a burst that it needs is not allowed. Then comes the one that
    keeps slots for it; then weight and headroom: the share of the cap that is gone, or the sessions where somebody has no cap.
    Sessions that are still starting count as much as others, so a stampede spreads. Weight 0 is the last resort.
    """
    found, reason = usable(world, tenant, attempt)
    if not found:
        return None, reason
    if len(found) == 1:
        return found[0], Reason.BACKEND_LIMIT if found[0].full_for(tenant.id) else None
    by_share = all(each.cap is not None for each in found)

    def rank(backend: BackendView) -> tuple[bool, bool, bool, bool, float, int]:
        kept = backend.reservations.kept_from(tenant.id)
        gone = (backend.used + kept) / backend.cap if by_share and backend.cap else backend.used
        return (
            backend.cap is not None and backend.used + kept >= backend.cap,
            burst and not backend.calm,
            backend.cap is None or kept == backend.reservations.unused,
            backend.weight == 0,
            gone / (backend.weight or 1),
            backend.id,
        )

    best = min(found, key=rank)
    return best, Reason.BACKEND_LIMIT if best.full_for(tenant.id) else None


def _fits(backend: BackendView, attempt: Attempt) -> bool:
    pipeline = attempt.pipeline in backend.pipelines if attempt.pipeline else bool(backend.pipelines)
    return pipeline and attempt.transport in backend.transports


def _pipeline(attempt: Attempt, backend: BackendView) -> str:
    return attempt.pipeline or min(backend.pipelines)


def _refused(reason: Reason, limits: tuple[Limit, ...]) -> Verdict:
    if reason in AT_CAPACITY:
        return Verdict(reason, limits, retry_after_s=RETRY_AT_CAPACITY_S)
    if reason in {Reason.BACKEND_UNHEALTHY, Reason.BACKEND_DRAINING}:
        return Verdict(reason, limits, retry_after_s=RETRY_NO_BACKEND_S)
    return Verdict(reason, limits)
