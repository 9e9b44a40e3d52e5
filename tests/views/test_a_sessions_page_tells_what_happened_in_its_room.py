"""A session over WebRTC: its page tells staff of its room, who came and went, what was made of it, and what was found besides."""

from uuid import UUID

import pytest
from django.test import Client
from django.utils import timezone

from sessions_app.domain.operations import Joined, Left
from sessions_app.models import Backend, Drift, Room, WebhookEvent
from sessions_app.services import inbox
from sessions_app.services.ledger import Ledger
from tenants.models import Tenant
from tests.views.conftest import text
from tests.world import admit, make_backend

SECRETS = {"api_key": "key", "api_secret": "secret-of-32-characters-or-even-more"}


@pytest.fixture
def backend(committed_db: None) -> Backend:
    return make_backend("livekit", provider="livekit", options={"url": "ws://127.0.0.1:1"}, secrets=SECRETS, transports=["webrtc"])


@pytest.fixture
def session_id(backend: Backend, ledger: Ledger, acme: Tenant) -> UUID:
    """One whose user joined, and left again."""
    asked = admit(acme, transport="webrtc")
    found: UUID = asked.attempt.session_id
    ledger.apply([asked])
    ledger.apply([Joined(found)])
    ledger.apply([Left(found)])
    Room.objects.create(session_id=found, backend=backend, name=f"voice-{found}", made_at=timezone.now(), generation=2)
    return found


def tell(backend: Backend, session_id: UUID, name: str, *, verdict: str = "", **fields: object) -> None:
    body = {"event": name, "room": {"name": f"voice-{session_id}", "sid": "RM_1"}, **fields}
    event_id = f"EV_{WebhookEvent.objects.count()}"
    inbox.store([inbox.Event(backend.pk, event_id, name, f"voice-{session_id}", session_id, body)])
    if verdict:
        inbox.processed(verdicts=[(WebhookEvent.objects.get(event_id=event_id).pk, verdict)])


def test_who_came_and_went_is_told_in_words_and_in_order(staff: Client, backend: Backend, session_id: UUID) -> None:
    user = {"sid": "PA_1", "identity": f"user-{session_id}", "state": "ACTIVE"}
    agent = {"sid": "PA_2", "identity": f"agent-{session_id}", "kind": "AGENT", "state": "ACTIVE"}
    tell(backend, session_id, "room_started", verdict="the room is there.")
    tell(backend, session_id, "participant_joined", participant=user, verdict="the user is there.")
    tell(backend, session_id, "participant_joined", participant=agent)
    tell(backend, session_id, "track_published", participant=agent, track={"sid": "TR_1"})
    tell(backend, session_id, "participant_left", participant={**user, "disconnectReason": "CLIENT_INITIATED"})
    tell(backend, session_id, "a_kind_to_come")
    inbox.drifted(kind=Drift.Kind.LOST_ROOM, backend_id=backend.pk, room=f"voice-{session_id}", session_id=session_id, detail="made again")
    page = text(staff, f"/ops/sessions/{session_id}/")
    told = [
        "The room was made.", "The room is there.", "The user joined.", "The user is there.", "The agent joined.", "Not processed yet.",
        "The agent began to send audio.", "The user left (client initiated).", "a_kind_to_come was told.",
        "Found: a live session without its room.", "Made again",
    ]  # fmt: skip
    places = [page.find(each) for each in told]
    assert -1 not in places, told[places.index(-1)]
    assert places == sorted(places)


def test_the_room_and_its_leaving_are_among_the_facts(staff: Client, session_id: UUID) -> None:
    page = " ".join(text(staff, f"/ops/sessions/{session_id}/").split())
    assert f'id="room">voice-{session_id}</dd>' in page
    assert "The room was made 2 times." in page
    assert "The user left the room; the slot is kept for the grace." in page
    assert "Its server has told nothing yet." in page
    assert 'livekit <span class="soft">webrtc</span>' in text(staff, "/ops/sessions/")


def test_a_backend_whose_settings_became_wrong_hides_nothing(staff: Client, backend: Backend, session_id: UUID) -> None:
    tell(backend, session_id, "room_started")
    Backend.objects.update(options={})
    assert "room_started was told." in text(staff, f"/ops/sessions/{session_id}/")


def test_members_are_told_nothing_of_rooms(member: Client, backend: Backend, session_id: UUID) -> None:
    tell(backend, session_id, "room_started")
    page = text(member, f"/sessions/{session_id}/")
    assert "voice-" not in page
    assert "The room was made" not in page


def test_a_session_without_a_room_says_nothing_of_rooms(staff: Client, ledger: Ledger, acme: Tenant) -> None:
    make_backend("loopback")
    asked = admit(acme)
    ledger.apply([asked])
    assert "In the room" not in text(staff, f"/ops/sessions/{asked.attempt.session_id}/")
