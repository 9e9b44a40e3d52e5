"""Rooms, webhooks and drift in the admin: looked at, found, told beside their backend, and processed once more where that is wanted."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from sessions_app.models import Backend, Drift, Room, WebhookEvent, WebhookRefusal
from sessions_app.services import inbox
from sessions_app.services.ledger import Ledger
from tests.livekit_server import provider_of
from tests.providers.contract import request_for
from tests.views.conftest import text
from tests.world import admit, make_backend, make_tenant
from voiceplatform.embedded.livekit import LiveKit

EVENTS = "admin:sessions_app_webhookevent_changelist"
ROOMS = "admin:sessions_app_room_changelist"
DRIFTS = "admin:sessions_app_drift_changelist"
REFUSALS = "admin:sessions_app_webhookrefusal_changelist"


@pytest.fixture
def backend(committed_db: None, livekit: LiveKit) -> Backend:
    secrets = {"api_key": livekit.key, "api_secret": livekit.secret}
    return make_backend("livekit", provider="livekit", options={"url": livekit.url}, secrets=secrets, transports=["webrtc"])


@pytest.fixture
def session_id(backend: Backend, ledger: Ledger) -> UUID:
    """A session with a room."""
    asked = admit(make_tenant(), transport="webrtc")
    ledger.apply([asked])
    found: UUID = asked.attempt.session_id
    Room.objects.create(session_id=found, backend=backend, name=f"voice-{found}", made_at=timezone.now())
    return found


@pytest.fixture
def told(backend: Backend, session_id: UUID) -> Callable[..., WebhookEvent]:
    """Store a webhook of the session's room."""

    def tell(event_id: str, name: str = "participant_joined") -> WebhookEvent:
        body = {"event": name, "room": {"name": f"voice-{session_id}"}}
        room = f"voice-{session_id}"
        assert inbox.store([inbox.Event(backend.pk, event_id, name, room, session_id, body)]) == [True]
        return WebhookEvent.objects.get(event_id=event_id)

    return tell


def again(event: WebhookEvent) -> WebhookEvent:
    return WebhookEvent.objects.get(pk=event.pk)


def test_a_webhook_is_found_by_its_session_its_room_or_its_id(admin: Client, session_id: UUID, told: Callable[..., WebhookEvent]) -> None:
    event = told("EV_one")
    inbox.processed(verdicts=[(event.pk, "the user is there.")])
    for term in (str(session_id), f"voice-{session_id}", "EV_one"):
        assert "the user is there." in text(admin, reverse(EVENTS), q=term), term
    for term in ("EV_two", "one", str(UUID(int=7))):
        assert "the user is there." not in text(admin, reverse(EVENTS), q=term), term
    assert "the user is there." in text(admin, reverse(EVENTS), processed="yes")
    assert "the user is there." not in text(admin, reverse(EVENTS), processed="no")
    page = text(admin, reverse("admin:sessions_app_webhookevent_change", args=[event.pk]))
    assert f"/ops/sessions/{session_id}/" in page
    assert "&quot;event&quot;: &quot;participant_joined&quot;" in page


def test_webhooks_are_processed_once_more_by_those_who_may(admin: Client, staff: Client, told: Callable[..., WebhookEvent]) -> None:
    event = told("EV_one")
    inbox.processed(verdicts=[(event.pk, "Nothing new.")])
    User.objects.get(username="ops").user_permissions.add(Permission.objects.get(codename="view_webhookevent"))
    wanted = {"action": "replay", "_selected_action": [event.pk]}
    assert 'value="replay"' not in text(staff, reverse(EVENTS))
    staff.post(reverse(EVENTS), wanted)
    assert again(event).processed_at is not None
    assert "Being processed once more: 1." in admin.post(reverse(EVENTS), wanted, follow=True).content.decode()
    assert (again(event).processed_at, again(event).verdict) == (None, "")
    assert LogEntry.objects.get().get_change_message() == "Processed once more."


def test_nothing_of_it_can_be_changed(admin: Client, told: Callable[..., WebhookEvent]) -> None:
    event = told("EV_one")
    address = reverse("admin:sessions_app_webhookevent_change", args=[event.pk])
    assert admin.post(address, {"verdict": "all is well"}).status_code == 403
    for name in ("webhookevent", "room", "drift", "webhookrefusal"):
        assert admin.get(reverse(f"admin:sessions_app_{name}_add")).status_code == 403
    assert again(event).verdict == ""


def test_rooms_drift_and_refusals_are_listed_in_words(admin: Client, backend: Backend, session_id: UUID) -> None:
    inbox.drifted(kind=Drift.Kind.LOST_ROOM, backend_id=backend.pk, room=f"voice-{session_id}", session_id=session_id, detail="made again")
    inbox.refused(counts={(backend.pk, "wrong_signature"): 7})
    assert str(session_id) in text(admin, reverse(ROOMS), closed="no")
    assert str(session_id) not in text(admin, reverse(ROOMS), closed="yes")
    assert str(session_id) in text(admin, reverse(ROOMS), q=str(session_id))
    assert "a live session without its room" in text(admin, reverse(DRIFTS))
    assert "made again" in text(admin, reverse(DRIFTS), kind="lost_room")
    assert WebhookRefusal.objects.get().count == 7
    assert "wrong_signature" in text(admin, reverse(REFUSALS))


def test_a_backend_tells_of_its_webhooks(admin: Client, backend: Backend, told: Callable[..., WebhookEvent]) -> None:
    address = reverse("admin:sessions_app_backend_change", args=[backend.pk])
    assert "none yet" in text(admin, address)
    told("EV_one")
    inbox.refused(counts={(backend.pk, "wrong_signature"): 7})
    page = " ".join(text(admin, address).split())
    assert "<code>http://testserver/webhooks/livekit/livekit/</code>" in page
    assert "1 open room." in page
    assert "1 not processed yet." in page
    assert "7 refused in the last hour: wrong_signature." in page
    other = make_backend("loopback")
    assert "webhook.urls" not in text(admin, reverse("admin:sessions_app_backend_change", args=[other.pk]))


async def _make_room(livekit: LiveKit, **fields: Any) -> str:
    provider = provider_of(livekit)
    try:
        return (await provider.open(request_for(provider, **fields))).resource
    finally:
        await provider.aclose()


def test_the_rooms_that_a_server_has_are_shown_beside_those_that_it_should_have(
    admin: Client, backend: Backend, session_id: UUID, livekit: LiveKit
) -> None:
    address = reverse("admin:sessions_app_backend_rooms", args=[backend.pk])
    stranger = asyncio.run(_make_room(livekit))
    page = text(admin, address)
    assert stranger in page
    assert "nobody admitted this room" in page
    assert "the server does not have it" in page
    asyncio.run(_make_room(livekit, session_id=session_id))
    page = text(admin, address)
    assert "the server does not have it" not in page
    assert f'<a href="/ops/sessions/{session_id}/">starting</a>' in page


def test_a_server_that_cannot_be_asked_is_explained(admin: Client, staff: Client, backend: Backend) -> None:
    address = reverse("admin:sessions_app_backend_rooms", args=[backend.pk])
    assert staff.get(address).status_code == 403
    Backend.objects.update(options={"url": "ws://127.0.0.1:1"})
    assert "could not be reached" in text(admin, address)
    other = make_backend("loopback")
    assert admin.get(reverse("admin:sessions_app_backend_rooms", args=[other.pk])).status_code == 404
