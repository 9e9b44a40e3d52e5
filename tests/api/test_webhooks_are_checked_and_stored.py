"""``POST /webhooks/livekit/<backend>/``: what is signed is stored once, without secrets; what is not is counted."""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from django.test import Client

from sessions_app.models import Backend, WebhookEvent, WebhookRefusal
from sessions_app.runtime import webhooks
from sessions_app.services import inbox
from tests.world import make_backend
from voiceplatform.embedded.livekit import new_keys

URL = "/webhooks/livekit/cloud/"
pytestmark = pytest.mark.django_db
((KEY, SECRET),) = new_keys().items()
((OLD_KEY, OLD_SECRET),) = new_keys().items()
TURN = "turn-password-of-a-room"


@pytest.fixture(autouse=True)
def backend() -> Iterator[Backend]:
    webhooks.forget()
    webhooks.take_refused()
    secrets = {"api_key": KEY, "api_secret": SECRET, "previous_api_key": OLD_KEY, "previous_api_secret": OLD_SECRET}
    made = make_backend("cloud", options={"url": "ws://127.0.0.1:1"}, secrets=secrets, transports=["webrtc"])
    made.provider = "livekit"
    made.save()
    yield made
    webhooks.forget()


@pytest.fixture
def client() -> Client:
    return Client(enforce_csrf_checks=True)


def event(name: str = "room_started", **fields: Any) -> bytes:
    room = {"sid": "RM_1", "name": "voice-018f0000-0000-7000-8000-000000000001", "turnPassword": TURN}
    return json.dumps({"event": name, "id": f"EV_{name}", "createdAt": "1", "room": room} | fields).encode()


def signed(body: bytes, *, key: str = KEY, secret: str = SECRET, of: bytes | None = None, age_s: int = 0) -> str:
    digest = base64.b64encode(hashlib.sha256(body if of is None else of).digest()).decode()
    now = int(time.time()) - age_s
    return jwt.encode({"iss": key, "nbf": now, "exp": now + 300, "sha256": digest}, secret, algorithm="HS256")


def send(client: Client, body: bytes, authorization: str | None = None, url: str = URL) -> int:
    sent = signed(body) if authorization is None else authorization
    return client.post(url, data=body, content_type="application/webhook+json", headers={"Authorization": sent}).status_code


def test_a_signed_event_is_stored_once_and_without_its_secret(client: Client, backend: Backend) -> None:
    assert send(client, event()) == send(client, event()) == 200
    stored = WebhookEvent.objects.get()
    assert (stored.backend, stored.event_id, stored.name) == (backend, "EV_room_started", "room_started")
    assert (stored.room, str(stored.session_id)) == (
        "voice-018f0000-0000-7000-8000-000000000001",
        "018f0000-0000-7000-8000-000000000001",
    )
    assert (stored.processed_at, stored.verdict) == (None, "")
    assert TURN not in json.dumps(stored.body)
    assert stored.body["room"]["sid"] == "RM_1"


def test_what_nobody_knows_yet_is_stored_too(client: Client) -> None:
    assert send(client, event("room_renamed", shade="green")) == 200
    assert WebhookEvent.objects.get().body["shade"] == "green"


def test_an_event_without_an_id_is_stored(client: Client) -> None:
    assert send(client, event(id="")) == 200
    assert WebhookEvent.objects.count() == 1


def test_the_key_before_is_good_while_it_is_kept(client: Client, backend: Backend) -> None:
    body = event()
    assert send(client, body, signed(body, key=OLD_KEY, secret=OLD_SECRET)) == 200
    backend.secrets = {"api_key": KEY, "api_secret": SECRET}
    backend.save()
    webhooks.forget()
    assert send(client, body, signed(body, key=OLD_KEY, secret=OLD_SECRET)) == 401


def test_a_wrong_signature_is_refused_and_counted(client: Client, backend: Backend) -> None:
    body = event()
    forged = [
        "",
        "nonsense",
        "x" * 100_000,
        signed(body, secret=OLD_SECRET),
        signed(body, key="APIunknown"),
        signed(body, of=b"{}"),
        signed(body, age_s=3600),
        jwt.encode({"iss": KEY}, "", algorithm="none"),
    ]
    assert [send(client, body, each) for each in forged] == [401] * len(forged)
    assert not WebhookEvent.objects.exists()
    inbox.refused(counts=webhooks.take_refused())
    inbox.refused(counts={(backend.pk, "wrong_signature"): 2})
    assert sum(WebhookRefusal.objects.filter(reason="wrong_signature").values_list("count", flat=True)) == len(forged) + 2


def test_a_body_that_is_too_large_is_refused_and_counted(client: Client, backend: Backend) -> None:
    assert send(client, b"x" * (64 * 1024 + 1), "") == 413
    assert webhooks.take_refused() == {(backend.pk, "too_large"): 1}
    whole = event(padding="x" * (64 * 1024 - len(event()) - 20))
    assert len(whole) <= 64 * 1024
    assert send(client, whole) == 200


def test_other_addresses_are_not_there(client: Client) -> None:
    make_backend("loopback")
    for url in ("/webhooks/livekit/none/", "/webhooks/livekit/loopback/", "/webhooks/loopback/loopback/", "/webhooks/loopback/cloud/"):
        assert send(client, event(), url=url) == 404
    assert webhooks.take_refused() == {}


def test_only_posts_are_taken(client: Client) -> None:
    assert client.get(URL).status_code == 405
    assert client.get(URL).headers["Allow"] == "POST"


def test_a_replay_is_a_new_event_to_those_who_process_it(client: Client) -> None:
    assert send(client, event()) == 200
    stored = WebhookEvent.objects.get()
    inbox.processed(verdicts=[(stored.pk, "Nothing new.")])
    stored.refresh_from_db()
    assert (stored.attempts, stored.verdict, stored.processed_at is None) == (1, "Nothing new.", False)
    assert inbox.replay(ids=[stored.pk, stored.pk + 1]) == 1
    stored.refresh_from_db()
    assert (stored.attempts, stored.verdict, stored.processed_at) == (0, "", None)
    with pytest.raises(ValueError, match="at most"):
        inbox.replay(ids=range(inbox.MAX_REPLAYED + 1))
