"""What would happen to an attempt right now, and why: the ledger's own rules (``domain``) on what the database has at this moment.

Owns: the words on each backend. One read-only snapshot, no lock, nothing is changed: it is a statement about a moment, as if the
attempt were alone in its batch. Whoever waits and fits is let in first, as the ledger would.
Refuses: what is decided before or after an admission (a node that drains, a credential, a backend that does not open). Limits: those of
``places`` and ``world``.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from sessions_app.domain import admission, queueing, rates
from sessions_app.domain.admission import Attempt, BackendView, Scope, TenantView, Verdict, World
from sessions_app.domain.queueing import Waiter
from sessions_app.domain.rates import RateKey
from sessions_app.domain.states import Reason
from sessions_app.models import Backend
from sessions_app.selectors import places, usage
from sessions_app.selectors.places import Standing
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
        backends = list(Backend.objects.select_related("health").defer("secrets").order_by("name"))
    world, attempt = queues.scene.world, Attempt(_ASKED, tenant.pk, user, pipeline, transport, backend)
    promoted = {each.waiter.attempt.session_id for each in queueing.promote(world, queues.waiters)}
    view = world.tenants[tenant.pk]
    # Before the decision, which counts the attempt.
    left, reserved, queued = _rates(world, view, user), _reserved(world, tenant.pk), view.queued
    standing = None
    looks = {each.pk: _Look(world, view, attempt, each, queues.now) for each in backends}
    whys = {each: look.why_not() for each, look in looks.items()}
    room = {each: look.room() for each, look in looks.items() if not whys[each]}
    verdict = admission.decide(world, [attempt])[0]
    if verdict.queued:
        waiter = Waiter(attempt, queues.now.timestamp(), _LAST)
        standing = queues.standings([each for each in (*queues.waiters, waiter) if each.attempt.session_id not in promoted]).get(_ASKED)
    return Explanation(
        at=queues.now,
        tenant=tenant,
        attempt=attempt,
        verdict=verdict,
        backend=_seen_backend(verdict, room, backends),
        standing=standing,
        promoted=len(promoted),
        rates=left,
        reserved=reserved,
        limits=limits,
        queued=queued,
        max_queue_length=view.max_queue_length,
        max_queue_wait_s=view.max_queue_wait_s,
        backends=[
            Choice(each.name, each.pk == verdict.backend_id, whys[each.pk] or _why(each.pk, verdict, room)) for each in backends
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


def _reserved(world: World, tenant_id: int) -> list[Reserved]:
    found = []
    for backend in sorted(world.backends.values(), key=lambda each: each.name):
        own, unused = backend.reservations.reserved_by(tenant_id), backend.reservations.unused_of(tenant_id)
        if own or backend.reservations.unused:
            found.append(Reserved(backend.name, own, unused, backend.kept_from(tenant_id)))
    return found
