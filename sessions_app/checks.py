"""System checks: the ratios that the timing settings must keep, and providers that can be imported. Ids ``voice.E001`` and on."""

from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from sessions_app.providers.exceptions import ProviderNotFound
from sessions_app.providers.registry import Registry

_POSITIVE: Final = (
    "VOICE_HEARTBEAT_S",
    "VOICE_LEASE_S",
    "VOICE_LOST_GRACE_S",
    "VOICE_SWEEP_S",
    "VOICE_PROBE_S",
    "VOICE_PROBE_STALE_S",
    "VOICE_PROBE_TIMEOUT_S",
    "VOICE_RECONCILE_S",
    "VOICE_RECONCILE_FALLBACK_S",
    "VOICE_ROOMS_TASK_S",
    "VOICE_OPEN_TIMEOUT_S",
    "VOICE_CLOSE_TIMEOUT_S",
    "VOICE_START_TIMEOUT_S",
    "VOICE_CONNECT_TOKEN_S",
)


@register
def check_timing(**_: Any) -> list[CheckMessage]:
    """Hold what one timing means for another."""
    found: list[CheckMessage] = [
        Error(f"{name} must be above 0 seconds.", id="voice.E001") for name in _POSITIVE if not getattr(settings, name) > 0
    ]
    if settings.VOICE_LEASE_S < 3 * settings.VOICE_HEARTBEAT_S:
        found.append(Error("VOICE_LEASE_S must be at least three heartbeats, or one late heartbeat ends sessions.", id="voice.E002"))
    if settings.VOICE_LOST_GRACE_S < settings.VOICE_LEASE_S:
        found.append(Error("VOICE_LOST_GRACE_S must not be shorter than VOICE_LEASE_S.", id="voice.E003"))
    if settings.VOICE_PROBE_STALE_S < 2 * settings.VOICE_PROBE_S or settings.VOICE_PROBE_FALLBACK_S >= settings.VOICE_PROBE_STALE_S:
        found.append(Error("VOICE_PROBE_STALE_S must leave room for two probes and for the nodes' fallback.", id="voice.E004"))
    return found


@register
def check_providers(**_: Any) -> list[CheckMessage]:
    """Import every configured provider."""
    registry = Registry(settings.VOICE_PROVIDERS)
    found: list[CheckMessage] = []
    for name in registry.names():
        try:
            registry.get(name)
        except ProviderNotFound as error:
            found.append(Error(f"VOICE_PROVIDERS[{name!r}]: {error}", id="voice.E005"))
    return found
