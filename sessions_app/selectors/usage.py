"""Reads of what is in use now: per tenant, per backend, in all. From the counters, so the cost does not grow with the sessions."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import connection
from django.db.models import Sum

from sessions_app.models import Backend, BackendHealth, Capacity, Platform
from tenants.models import Quota

# As the ledger finds it.
_RESERVED_ON: Final = """
SELECT b.name, (SELECT count(*) FROM sessions_app_slot s WHERE s.tenant_id = %(tenant)s AND s.backend_id = b.id)
FROM sessions_app_backend b WHERE b.id = voice_reserved_on(%(tenant)s, %(named)s)"""


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes saw of a backend.

    Attributes:
        status: ``unknown``, ``healthy``, ``unhealthy``, or ``stale`` where it was healthy but nobody has probed it for too long; only a
            healthy backend gets sessions.
        latency_ms: Of the last probe that was answered, in milliseconds.
        error: One sentence, or empty.
    """

    status: str
    last_probe_at: datetime | None = None
    latency_ms: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class BackendUse:
    """One backend as it is now; ``cap`` None is unlimited."""

    name: str
    provider: str
    used: int
    cap: int | None
    enabled: bool
    draining: bool
    health: Health


@dataclass(frozen=True, slots=True)
class PlatformUse:
    """All backends together; ``limit`` None is unlimited."""

    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tenant's reserved slots are, and how many slots it has there."""

    backend: str
    used: int


def tenant_use(tenant_id: int) -> int:
    """Return how many slots a tenant holds."""
    return _counters("tenant", [tenant_id]).get(tenant_id, 0)


def tenant_queue(tenant_id: int) -> int:
    """Return how many of a tenant's sessions wait."""
    return Capacity.objects.filter(scope="tenant", ref=tenant_id).values_list("queued", flat=True).first() or 0


def reservation(quota: Quota) -> Place | None:
    """Return where a quota's reserved slots are; None where there is no backend for them."""
    with connection.cursor() as cursor:
        cursor.execute(_RESERVED_ON, {"tenant": quota.tenant_id, "named": quota.reserved_backend})
        row = cursor.fetchone()
    return Place(*row) if row else None


def backend_use(backend_ids: Iterable[int]) -> dict[int, int]:
    """Return how many slots are held on each of these backends."""
    ids = list(backend_ids)
    return dict.fromkeys(ids, 0) | _counters("backend", ids)


def platform_use() -> PlatformUse:
    """Return how many slots are held in all: the sum over the backends, since the platform has no counter of its own."""
    used = Capacity.objects.filter(scope="backend").aggregate(total=Sum("active"))["total"] or 0
    limit = Platform.objects.values_list("max_concurrent_sessions", flat=True).first()
    return PlatformUse(used, limit)


def overview(*, now: datetime) -> list[BackendUse]:
    """Return every backend with its use and health, by name."""
    backends = list(Backend.objects.select_related("health").order_by("name"))
    used = backend_use(backend.pk for backend in backends)
    return [
        BackendUse(
            name=backend.name,
            provider=backend.provider,
            used=used[backend.pk],
            cap=backend.cap,
            enabled=backend.enabled,
            draining=backend.draining,
            health=health_of(backend, now=now),
        )
        for backend in backends
    ]


def health_of(backend: Backend, *, now: datetime) -> Health:
    """Return a backend's health as an admission at ``now`` would take it."""
    seen: BackendHealth | None = getattr(backend, "health", None)
    if seen is None:
        return Health("unknown")
    oldest = now - timedelta(seconds=settings.VOICE_PROBE_STALE_S)
    stale = seen.status == BackendHealth.Status.HEALTHY and (seen.last_probe_at is None or seen.last_probe_at < oldest)
    return Health("stale" if stale else str(seen.status), seen.last_probe_at, seen.latency_ms, seen.error)


def _counters(scope: str, refs: list[int]) -> dict[int, int]:
    return dict(Capacity.objects.filter(scope=scope, ref__in=refs).values_list("ref", "active"))
