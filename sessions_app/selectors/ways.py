"""Reads of the ways by which a tenant's people may call: over which transport, on which backend.

As far as anybody can tell beforehand; admission looks again. Backends that are disabled or take nobody new are left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sessions_app.models import Backend, BackendAccess

_TRANSPORTS: Final = {"websocket": "WebSocket", "webrtc": "WebRTC"}  # in the order in which they are offered


@dataclass(frozen=True, slots=True)
class Way:
    """One of them.

    Attributes:
        label: For people.
        transport: ``websocket`` or ``webrtc``.
        backend: Its name; empty where the platform chooses.
    """

    label: str
    transport: str
    backend: str


def usable_backends(tenant_ids: Iterable[int]) -> dict[int, list[Backend]]:
    """Return each tenant's backends that take new sessions, by name."""
    ids = list(tenant_ids)
    backends = list(Backend.objects.filter(enabled=True, draining=False).order_by("name"))
    allowed: dict[int, set[int]] = {}
    for tenant_id, backend_id in BackendAccess.objects.filter(tenant_id__in=ids).values_list("tenant_id", "backend_id"):
        allowed.setdefault(tenant_id, set()).add(backend_id)
    return {each: [row for row in backends if each not in allowed or row.pk in allowed[each]] for each in ids}


def ways(backends: Iterable[Backend]) -> list[Way]:
    """Return the ways by which these can be called, at least one; for a transport that several serve, the platform's choice first."""
    found: list[Way] = []
    backends = list(backends)
    for transport, word in _TRANSPORTS.items():
        serving = [each.name for each in backends if transport in each.transports]
        if len(serving) > 1:
            found.append(Way(f"Any ({word})", transport, ""))
        found += [Way(f"{name} ({word})", transport, name) for name in serving]
    return found or [Way("Any", "websocket", "")]
