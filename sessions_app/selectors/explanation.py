"""What would happen to an attempt right now, and why: the ledger's own rules (``domain``) on what the database has at this moment.

Owns: the words on each backend. One read-only snapshot, no lock, nothing is changed: it is a statement about a moment, as if the
attempt were alone in its batch. Whoever waits and fits is let in first, as the ledger would.
Refuses: what is decided before or after an admission (a node that drains, a credential, a backend that does not open). Limits: those of
``places`` and ``world``.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from sessions_app.domain import admission, queueing, rates
from sessions_app.domain.admission import Verdict
from sessions_app.domain.queueing import Waiter
from sessions_app.domain.rates import RateKey
from sessions_app.domain.states import Reason
from sessions_app.domain.world import Attempt, BackendView, Scope, TenantView, World
from sessions_app.models import Backend, BackendHealth
from sessions_app.selectors import places, usage
from sessions_app.selectors.places import Standing
from sessions_app.selectors.usage import Place
from tenants import selectors as tenants
from tenants.models import Tenant
from tenants.selectors import Limit as TenantLimit

_ASKED: Final = UUID(int=0)  # nobody has this id
_LAST: Final = 2**62  # behind everybody who came in the same moment


@dataclass(frozen=True, slots=True)
class Rate:
    """What is left of a rate of new sessions: ``tokens`` now, of ``per_minute`` at most; both None where it is unlimited."""

    scope: Scope
    tokens: float | None
    per_minute: int | None


@dataclass(frozen=True, slots=True)
class Reserved:
    """Reserved slots on one backend: how many are the tenant's, how many of those are unused, and how many are kept for others."""

    backend: str
    own: int
    own_unused: int
    for_others: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One backend, whether it would be chosen, and why it would or would not."""

    name: str
    chosen: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would happen to the attempt.

    Attributes:
        at: The moment of which this is true, by the database's clock.
        backend: Name of the backend in the limit vector; empty where none came into question.
        standing: The place in the queue, where the attempt would wait.
        promoted: Sessions that wait now and would be let in before it.
        limits: The limits that overrides change, as they are in force.
        queued: Sessions of the tenant that wait.
    """

    at: datetime
    tenant: Tenant
    attempt: Attempt
    verdict: Verdict
    backend: str
    standing: Standing | None
    promoted: int
    rates: list[Rate]
    reserved: list[Reserved]
    limits: dict[str, TenantLimit]
    queued: int
    max_queue_length: int | None
    max_queue_wait_s: int | None
    backends: list[Choice]


def explain(*, slug: str, user: str = "", backend: str = "", pipeline: str = "", transport: str = "websocket") -> Explanation:
    """Return what would happen to an attempt of this tenant now.

    Args:
        slug: The tenant's.
        user: The tenant's own name for its user; without it somebody who has no session and no attempt yet.
        backend: The one asked for by name; empty: any.
        pipeline: Empty: any.

    Raises:
        tenants.exceptions.TenantNotFound: there is no such tenant.
    """
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        tenant = tenants.tenant_by_slug(slug)
        queues = places.look(cursor, tenants=[tenant.pk], users=[(tenant.pk, user)])
        limits = tenants.limits_in_force(tenant.quota)
        place = usage.reservation(tenant.quota) if tenant.quota.reserved else None
        backends = list(Backend.objects.select_related("health").defer("secrets").order_by("name"))
    world, attempt = queues.scene.world, Attempt(_ASKED, tenant.pk, user, pipeline, transport, backend)
    promoted = {each.waiter.attempt.session_id for each in queueing.promote(world, queues.waiters)}
    view = world.tenants[tenant.pk]
    # Before the decision, which counts the attempt.
    left, reserved, queued = _rates(world, view, user), _reserved(world, tenant, place), view.queued
    why_not = {each.pk: _why_not(world, view, attempt, each, queues.now) for each in backends}
    could = {each.pk: _has(world.backends[each.pk]) for each in backends if not why_not[each.pk]}
    keeps = {each for each in could if world.backends[each].reservations.unused_of(view.id)}
    usable = [each.id for each in admission.usable(world, view, attempt)[0]]
    verdict = admission.decide(world, [attempt])[0]
    standing = None
    if verdict.queued:
        waiter = Waiter(attempt, queues.now.timestamp(), _LAST)
        standing = queues.standings([each for each in (*queues.waiters, waiter) if each.attempt.session_id not in promoted]).get(_ASKED)
    looked_at = verdict.backend_id or (usable[0] if len(usable) == 1 else None)
    return Explanation(
        at=queues.now,
        tenant=tenant,
        attempt=attempt,
        verdict=verdict,
        backend=next((each.name for each in backends if each.pk == looked_at), ""),
        standing=standing,
        promoted=len(promoted),
        rates=left,
        reserved=reserved,
        limits=limits,
        queued=queued,
        max_queue_length=view.max_queue_length,
        max_queue_wait_s=view.max_queue_wait_s,
        backends=[
            Choice(each.name, each.pk == verdict.backend_id, why_not[each.pk] or _why(each.pk, verdict, could, keeps)) for each in backends
        ],
    )


def _rates(world: World, tenant: TenantView, user: str) -> list[Rate]:
    wanted: list[tuple[Scope, RateKey, int | None]] = [
        (Scope.USER, ("user", tenant.id, user), tenant.user_rate),
        (Scope.TENANT, ("tenant", tenant.id), tenant.rate),
    ]
    return [
        Rate(scope, None if limit is None else rates.tokens(world.rates.get(key), limit, world.now), limit) for scope, key, limit in wanted
    ]


def _reserved(world: World, tenant: Tenant, place: Place | None) -> list[Reserved]:
    found = []
    for backend in sorted(world.backends.values(), key=lambda each: each.name):
        own = tenant.quota.reserved if place is not None and place.backend == backend.name else 0
        if own or backend.reservations.unused:
            found.append(Reserved(backend.name, own, backend.reservations.unused_of(tenant.pk), backend.kept_from(tenant.pk)))
    return found


def _why_not(world: World, tenant: TenantView, attempt: Attempt, row: Backend, now: datetime) -> str:
    """Return why the attempt cannot go to this backend; empty where it can."""
    view = world.backends.get(row.pk)
    if view is None:
        return "disabled"
    if view.id not in tenant.backends:
        return f"not for this tenant, which may use {_names(world, tenant) or 'no enabled backend'}"
    # The rules themselves say it, asked about this one alone.
    reason = admission.usable(world, replace(tenant, backends=frozenset({view.id})), attempt)[1]
    words = {
        Reason.AUTHORIZATION_FAILED: f"not the one that is asked for, {attempt.backend}",
        Reason.PROVIDER_NOT_FOUND: _does_not_serve(view, attempt),
        Reason.BACKEND_UNHEALTHY: _health(row, now),
        Reason.BACKEND_DRAINING: "draining: it takes no new sessions",
    }
    return words[reason] if reason else _no_room(view, tenant)


def _no_room(view: BackendView, tenant: TenantView) -> str:
    if view.full:
        return f"full: {view.used} of {view.cap} in use"
    if view.full_for(tenant.id):
        return f"{view.used} of {view.cap} in use, and the other {view.kept_from(tenant.id)} are kept for tenants that reserved them"
    if tenant.at_limit and tenant.burst and not view.calm:
        return f"{_has(view)}, but bursts are allowed only below {view.burst_below:.0%} of its cap"
    return ""


def _why(backend_id: int, verdict: Verdict, could: Mapping[int, str], keeps: AbstractSet[int]) -> str:
    """Return why one that could take the attempt would get it, or not."""
    has = could[backend_id]
    if verdict.backend_id != backend_id:
        return f"{has}; another one comes first" if verdict.admitted else f"{has}; it is not what the attempt fails at"
    if len(could) == 1:
        return f"{has}; the only one that could take it"
    return f"{has}; it keeps slots for this tenant" if backend_id in keeps else f"{has}; the least used for its weight"


def _has(view: BackendView) -> str:
    of = "any number" if view.cap is None else view.cap
    reserved = f", {view.reservations.unused} more reserved" if view.cap is not None and view.reservations.unused else ""
    return f"{view.used} of {of} in use{reserved}, weight {view.weight}{'' if view.weight else ' (last resort)'}"


def _does_not_serve(view: BackendView, attempt: Attempt) -> str:
    if attempt.transport not in view.transports:
        return f"does not serve transport {attempt.transport} (it serves {', '.join(sorted(view.transports)) or 'none'})"
    served = ", ".join(sorted(view.pipelines))
    return f"does not serve pipeline {attempt.pipeline} (it serves {served})" if served else "serves no pipeline"


def _health(row: Backend, now: datetime) -> str:
    seen = usage.health_of(row, now=now)
    if seen.last_probe_at is None:
        return "unhealthy: it has not been probed yet"
    last = f"{seen.last_probe_at:%Y-%m-%d %H:%M:%S} UTC"
    if seen.status != BackendHealth.Status.UNHEALTHY:
        return f"unhealthy: its last probe was at {last}, longer than {settings.VOICE_PROBE_STALE_S:g} s ago"
    failed = f"{row.health.failures} probes failed in a row, the last one at {last}"
    once = f"the last probe, at {last}, failed"
    return f"unhealthy: {failed if row.health.failures > 1 else once}{f' ({seen.error})' if seen.error else ''}"


def _names(world: World, tenant: TenantView) -> str:
    return ", ".join(sorted(each.name for each in world.backends.values() if each.id in tenant.backends))
