"""``POST /webhooks/livekit/<backend>/``: what is signed is stored once, without secrets; what is not is counted."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jwt
import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator

from sessions_app.api import webhooks as doors
from sessions_app.api.webhooks import application
from sessions_app.models import Backend, WebhookEvent, WebhookRefusal
from sessions_app.runtime import webhooks
from sessions_app.services import inbox
from tests.world import make_backend
from voiceplatform.embedded.livekit import new_keys

Communicator: Any = ApplicationCommunicator  # it has no types
URL = "/webhooks/livekit/cloud/"
((KEY, SECRET),) = new_keys().items()
((OLD_KEY, OLD_SECRET),) = new_keys().items()
TURN = "turn-password-of-a-room"


@pytest.fixture(autouse=True)
def backend(committed_db: None) -> Iterator[Backend]:
    webhooks.forget()
    webhooks.take_refused()
    secrets = {"api_key": KEY, "api_secret": SECRET, "previous_api_key": OLD_KEY, "previous_api_secret": OLD_SECRET}
    made = make_backend("cloud", options={"url": "ws://127.0.0.1:1"}, secrets=secrets, transports=["webrtc"])
    made.provider = "livekit"
    made.save()
    yield made
    webhooks.forget()


def event(name: str = "room_started", **fields: Any) -> bytes:
    room = {"sid": "RM_1", "name": "voice-018f0000-0000-7000-8000-000000000001", "turnPassword": TURN}
    return json.dumps({"event": name, "id": f"EV_{name}", "createdAt": "1", "room": room} | fields).encode()


def signed(body: bytes, *, key: str = KEY, secret: str = SECRET, of: bytes | None = None, age_s: int = 0) -> str:
    digest = base64.b64encode(hashlib.sha256(body if of is None else of).digest()).decode()
    now = int(time.time()) - age_s
    return jwt.encode({"iss": key, "nbf": now, "exp": now + 300, "sha256": digest}, secret, algorithm="HS256")


async def ask(method: str, url: str, body: Sequence[bytes] = (b"",), authorization: str = "") -> tuple[int, dict[str, str]]:
    """Ask as a server would that hands the body on in these pieces."""
    scope = {"type": "http", "method": method, "path": url, "headers": [(b"authorization", authorization.encode())]}
    app: Any = Communicator(application, scope)
    for number, piece in enumerate(body, start=1):
        await app.send_input({"type": "http.request", "body": piece, "more_body": number < len(body)})
    answer = await app.receive_output(timeout=10)
    await app.receive_output(timeout=10)
    await app.wait()
    return answer["status"], {name.decode(): value.decode() for name, value in answer["headers"]}


def send(body: bytes, authorization: str | None = None, url: str = URL) -> int:
    return async_to_sync(ask)("POST", url, (body[:7], body[7:]), signed(body) if authorization is None else authorization)[0]


def test_a_signed_event_is_stored_once_and_without_its_secret(backend: Backend) -> None:
    assert send(event()) == send(event()) == 200
    stored = WebhookEvent.objects.get()
    assert (stored.backend, stored.event_id, stored.name) == (backend, "EV_room_started", "room_started")
    assert (stored.room, str(stored.session_id)) == (
        "voice-018f0000-0000-7000-8000-000000000001",
        "018f0000-0000-7000-8000-000000000001",
    )
    assert (stored.processed_at, stored.verdict) == (None, "")
    assert TURN not in json.dumps(stored.body)
    assert stored.body["room"]["sid"] == "RM_1"


def test_what_nobody_knows_yet_is_stored_too() -> None:
    assert send(event("room_renamed", shade="green")) == 200
    assert WebhookEvent.objects.get().body["shade"] == "green"


def test_an_event_without_an_id_is_stored() -> None:
    assert send(event(id="")) == 200
    assert WebhookEvent.objects.count() == 1


def test_the_key_before_is_good_while_it_is_kept(backend: Backend) -> None:
    body = event()
    assert send(body, signed(body, key=OLD_KEY, secret=OLD_SECRET)) == 200
    backend.secrets = {"api_key": KEY, "api_secret": SECRET}
    backend.save()
    webhooks.forget()
    assert send(body, signed(body, key=OLD_KEY, secret=OLD_SECRET)) == 401


def test_a_wrong_signature_is_refused_and_counted(backend: Backend) -> None:
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
    assert [send(body, each) for each in forged] == [401] * len(forged)
    assert not WebhookEvent.objects.exists()
    inbox.refused(counts=webhooks.take_refused())
    inbox.refused(counts={(backend.pk, "wrong_signature"): 2})
    assert sum(WebhookRefusal.objects.filter(reason="wrong_signature").values_list("count", flat=True)) == len(forged) + 2


def test_a_body_that_is_too_large_is_refused_and_counted(backend: Backend) -> None:
    assert send(b"x" * (64 * 1024 + 1), "") == 413
    assert webhooks.take_refused() == {(backend.pk, "too_large"): 1}
    whole = event(padding="x" * (64 * 1024 - len(event()) - 20))
    assert len(whole) <= 64 * 1024
    assert send(whole) == 200


def test_other_addresses_are_not_there() -> None:
    make_backend("loopback")
    for url in ("/webhooks/livekit/none/", "/webhooks/livekit/loopback/", "/webhooks/loopback/loopback/", "/webhooks/loopback/cloud/"):
        assert send(event(), url=url) == 404
    assert webhooks.take_refused() == {}


def test_only_posts_are_taken() -> None:
    status, headers = async_to_sync(ask)("GET", URL)
    assert (status, headers["allow"]) == (405, "POST")


def test_a_crowd_of_events_is_stored_once_each() -> None:
    bodies = [event(id=f"EV_{number % 30}") for number in range(40)]

    async def crowd() -> list[int]:
        return [each[0] for each in await asyncio.gather(*(ask("POST", URL, (body,), signed(body)) for body in bodies))]

    assert async_to_sync(crowd)() == [200] * 40
    assert sorted(WebhookEvent.objects.values_list("event_id", flat=True)) == sorted(f"EV_{number}" for number in range(30))


def test_what_is_stored_at_once_keeps_its_order_and_the_first_of_two_is_the_new_one(backend: Backend) -> None:
    names = ["c", "a", "c", "b"]
    events = [inbox.Event(backend.pk, name, "other", "", None, {"number": number}) for number, name in enumerate(names)]
    assert inbox.store(events) == [True, True, False, True]
    assert [each.body["number"] for each in WebhookEvent.objects.order_by("pk")] == [0, 1, 3]


def test_a_body_that_never_ends_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "MAX_BODY_S", 0.01)

    async def dawdle() -> int:
        app: Any = Communicator(application, {"type": "http", "method": "POST", "path": URL, "headers": []})
        await app.send_input({"type": "http.request", "body": b"{", "more_body": True})
        status: int = (await app.receive_output(timeout=10))["status"]
        return status

    assert async_to_sync(dawdle)() == 408
    assert not WebhookEvent.objects.exists()


def test_a_replay_is_a_new_event_to_those_who_process_it() -> None:
    assert send(event()) == 200
    stored = WebhookEvent.objects.get()
    inbox.processed(verdicts=[(stored.pk, "Nothing new.")])
    stored.refresh_from_db()
    assert (stored.attempts, stored.verdict, stored.processed_at is None) == (1, "Nothing new.", False)
    assert inbox.replay(ids=[stored.pk, stored.pk + 1]) == 1
    stored.refresh_from_db()
    assert (stored.attempts, stored.verdict, stored.processed_at) == (0, "", None)
    with pytest.raises(ValueError, match="at most"):
        inbox.replay(ids=range(inbox.MAX_REPLAYED + 1))
