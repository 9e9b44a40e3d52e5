"""The health page of ops: whatever the platform depends on, when it was last seen at work, and what it means where it was not."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from sessions_app.runtime.backends import makes_rooms
from sessions_app.selectors import platform_health, room_records, usage
from sessions_app.selectors.platform_health import Nodes, Sighting
from sessions_app.selectors.room_records import RoomHealth
from sessions_app.selectors.usage import BackendUse
from sessions_app.views import access, present

STORE_TIMEOUT_S: Final = 1.0
WEBHOOK_PATIENCE: Final = timedelta(seconds=30)  # much longer than one takes
_MEANWHILE: Final = "probes and sweeps are done by the web nodes meanwhile; old history is not pruned."


@dataclass(frozen=True, slots=True)
class Problem:
    """One line on top of the page; ``error`` where callers are refused, else ``warning``."""

    sentence: str
    level: str = "warning"


@require_safe
@access.page
@access.staff_only
def health(request: HttpRequest) -> HttpResponse:
    """Show backends, nodes, stores and Celery as they are now. Without a database there is no page, since there is no login."""
    clock = platform_health.clock()
    nodes = platform_health.nodes()
    seen = platform_health.sightings()
    backends = usage.overview(now=clock.now)
    valkey = valkey_is_there()
    with_rooms = {each.provider for each in backends if makes_rooms(each.provider)}
    rooms = room_records.healths(providers=with_rooms, now=clock.now)
    worker, beat = seen[platform_health.WORKER], seen[platform_health.BEAT]
    context = {
        "here": "health",
        "now": clock.now,
        "database_took": f"{clock.took_ms:.1f} ms",
        "valkey": valkey,
        "celery": [(name, each, present.ago(each.age_s)) for name, each in (("Worker", worker), ("Beat", beat))],
        "sweep": present.ago(seen[platform_health.SWEEP].age_s),
        "problems": [
            *_of_backends(backends),
            *_of_rooms(rooms, clock.now),
            *_of_stores(valkey),
            *_of_celery(worker, beat),
            *_of_nodes(nodes),
        ],
        "backends": [(each, _probed(each, clock.now)) for each in backends],
        "rooms": [(name, each, _since(each.last_event_at, clock.now)) for name, each in rooms.items()],
        "nodes": [(each, present.ago(each.heartbeat_age_s), present.ago(each.age_s)) for each in nodes.rows],
        "cut": nodes.cut,
    }
    return render(request, "ops/health.html", context)


def valkey_is_there() -> bool:
    """Whether Valkey answers within ``STORE_TIMEOUT_S``; asked once, on a connection of its own."""
    client = Redis.from_url(
        settings.VALKEY_URL,
        socket_connect_timeout=STORE_TIMEOUT_S,
        socket_timeout=STORE_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    with client:
        try:
            return bool(client.ping())
        except (RedisError, OSError):
            return False


def _of_stores(valkey: bool) -> list[Problem]:
    sentence = "Valkey does not answer: audio and admission go on without it; the worker and beat cannot work."
    return [] if valkey else [Problem(sentence)]


def _of_celery(worker: Sighting, beat: Sighting) -> list[Problem]:
    return [
        Problem(f"{name} {'has not been seen yet' if each.age_s is None else f'was last seen {present.ago(each.age_s)}'}: {_MEANWHILE}")
        for name, each in (("The worker", worker), ("Beat", beat))
        if each.missed
    ]


def _of_backends(backends: list[BackendUse]) -> list[Problem]:
    enabled = [each for each in backends if each.enabled]
    if not enabled:
        return [Problem("No backend is enabled: every attempt is refused.", "error")]
    sick = [each for each in enabled if each.health.status != "healthy"]
    found = [Problem(f"Backend {each.name} is {each.health.status}: it gets no new sessions.") for each in sick]
    if len(sick) == len(enabled):
        found.insert(0, Problem("No enabled backend is healthy: every attempt is refused.", "error"))
    return found


def _of_rooms(rooms: Mapping[str, RoomHealth], now: datetime) -> list[Problem]:
    found = []
    for name, each in rooms.items():
        if each.refused:
            why = ", ".join(sorted(each.refused))
            found.append(Problem(f"{sum(each.refused.values())} webhooks for backend {name} were refused in the last hour: {why}."))
        if each.waiting_since is not None and now - each.waiting_since > WEBHOOK_PATIENCE:
            found.append(Problem(f"{each.waiting} webhooks of backend {name} wait, the oldest came {_since(each.waiting_since, now)}."))
        silent = each.oldest is not None and (each.last_event_at is None or each.last_event_at < each.oldest)
        if silent and each.oldest is not None and now - each.oldest > WEBHOOK_PATIENCE:
            told = f"Backend {name} has told nothing of its rooms: do its webhooks reach the platform? It is asked instead."
            found.append(Problem(told))
    return found


def _since(at: datetime | None, now: datetime) -> str:
    return present.ago(None if at is None else (now - at).total_seconds())


def _of_nodes(nodes: Nodes) -> list[Problem]:
    return [
        Problem(f"Node {each.name} was last seen {present.ago(each.heartbeat_age_s)}: its sessions may be resumed elsewhere.")
        for each in nodes.rows
        if each.late
    ]


def _probed(backend: BackendUse, now: datetime) -> str:
    """When the last probe was, and how long its answer took."""
    health = backend.health
    if health.last_probe_at is None:
        return "never"
    when = present.ago((now - health.last_probe_at).total_seconds())
    if health.latency_ms is None or health.error:
        return when
    return f"{when}, answered in {f'{health.latency_ms:.1f}' if health.latency_ms >= 0.1 else 'under 0.1'} ms"
