"""Reads of rooms for people: how a backend's webhooks are doing, and the story of one session's room. Bounded, and by index only."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db.models import Count, Q, Sum

from sessions_app.models import Backend, Drift, Room, Session, WebhookEvent, WebhookRefusal

MOST_EVENTS: Final = 200  # of one room
LATELY: Final = timedelta(hours=1)
MOST_WAITING: Final = 1_000  # events that are counted


@dataclass(frozen=True, slots=True)
class RoomHealth:
    """A backend's rooms and webhooks as the platform has them.

    Attributes:
        rooms: That are open, by our records.
        oldest: When the oldest of them was made; None where there is none.
        last_event_at: When its last webhook came; None: never.
        waiting: Webhooks that nothing has been made of yet, at most ``MOST_WAITING``.
        waiting_since: When the oldest of those came; None where there is none.
        refused: Webhooks that were refused in the last hour, by reason.
        drifted: What provider and platform did not agree on in the last hour, in words, and how often.
    """

    rooms: int = 0
    oldest: datetime | None = None
    last_event_at: datetime | None = None
    waiting: int = 0
    waiting_since: datetime | None = None
    refused: dict[str, int] = field(default_factory=dict)
    drifted: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Story:
    """What is known of one session's room.

    Attributes:
        room: Its record; None where the session never had one.
        events: What its provider told, oldest first, at most ``MOST_EVENTS``.
        drifts: What was found besides, oldest first.
    """

    room: Room | None
    events: list[WebhookEvent]
    drifts: list[Drift]
    cut: bool


def health(backend: Backend, *, now: datetime) -> RoomHealth:
    """Return how the rooms and webhooks of a backend are doing."""
    since = now - LATELY
    open_rooms = Room.objects.filter(backend=backend, closed_at__isnull=True)
    events = WebhookEvent.objects.filter(backend=backend)
    waiting = events.filter(processed_at__isnull=True)
    refused = WebhookRefusal.objects.filter(backend=backend, minute__gte=since)
    drifted = Drift.objects.filter(at__gte=since, backend=backend)
    return RoomHealth(
        rooms=open_rooms.count(),
        oldest=open_rooms.order_by("made_at").values_list("made_at", flat=True).first(),
        last_event_at=events.order_by("-received_at").values_list("received_at", flat=True).first(),
        waiting=waiting[:MOST_WAITING].count(),
        waiting_since=waiting.order_by("id").values_list("received_at", flat=True).first(),
        refused=dict(refused.values_list("reason").annotate(total=Sum("count"))),
        drifted=tuple((str(Drift.Kind(kind).label), total) for kind, total in drifted.values_list("kind").annotate(total=Count("id"))),
    )


def healths(*, providers: Collection[str], now: datetime) -> dict[str, RoomHealth]:
    """Return the same for every enabled backend of these providers, by name."""
    rows = Backend.objects.filter(enabled=True, provider__in=providers).order_by("name")
    return {row.name: health(row, now=now) for row in rows}


def story(session: Session) -> Story:
    """Return what is known of a session's room."""
    events = list(WebhookEvent.objects.filter(session_id=session.pk).order_by("id")[: MOST_EVENTS + 1])
    room = Room.objects.filter(pk=session.pk).select_related("backend").first()
    drifts: list[Drift] = []
    if room is not None:
        known = Q(session_id=session.pk) | Q(room=room.name)
        drifts = list(Drift.objects.filter(known, backend_id=room.backend_id, at__gte=session.attempted_at).order_by("at")[:MOST_EVENTS])
    return Story(room, events[:MOST_EVENTS], drifts, len(events) > MOST_EVENTS)


def open_rooms(backend: Backend) -> list[Room]:
    """Return the rooms that a backend should have, by our records, oldest first."""
    return list(Room.objects.filter(backend=backend, closed_at__isnull=True).order_by("made_at")[:MOST_WAITING])


def states(session_ids: Collection[UUID]) -> dict[UUID, str]:
    """Return the states of those of these sessions that there are."""
    return dict(Session.objects.filter(pk__in=session_ids).values_list("pk", "state"))
