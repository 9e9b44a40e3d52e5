"""A webhook counts when one of the backend's keys has signed it just now; then it is cleaned, and read in the platform's words."""

import base64
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import jwt
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions_app.providers.base import BackendConfig
from sessions_app.providers.exceptions import WrongSignature
from sessions_app.providers.livekit import tokens, webhooks
from sessions_app.providers.livekit.provider import LiveKitProvider
from tests.livekit.people import inside, until
from tests.livekit_server import NewLiveKit, provider_of
from tests.platform.instance import free_port
from tests.providers.contract import request_for
from voiceplatform.embedded.livekit import new_keys

KEYS = new_keys() | new_keys()
NEWEST, FORMER = KEYS
BODY = json.dumps({"event": "room_started", "id": "EV_1", "room": {"name": "r", "turnPassword": "hush-hush"}}).encode()


def signature(body: bytes = BODY, *, key: str = NEWEST, secret: str = "", age_s: int = 0, **claims: object) -> str:
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    now = int(time.time()) - age_s
    said = {"iss": key, "nbf": now, "exp": now + 300, "sha256": digest, **claims}
    return jwt.PyJWS().encode(json.dumps(said).encode(), secret or KEYS[key], algorithm="HS256")


WRONG: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no token": lambda: "hello",
    "no JSON": lambda: "a.b.c",
    "another secret": lambda: signature(secret="another-secret-of-at-least-32-bytes"),
    "an unknown key": lambda: signature(iss="APIunknown"),
    "no key": lambda: signature(iss=None),
    "a number for a key": lambda: signature(iss=7),
    "another body": lambda: signature(b"another body"),
    "too old": lambda: signature(age_s=600),
    "no digest": lambda: signature(sha256=None),
    "a number for a digest": lambda: signature(sha256=7),
    "no expiry": lambda: signature(exp=None),
    "unsigned": lambda: jwt.encode({"iss": NEWEST, "exp": int(time.time()) + 300}, "", algorithm="none"),
}


def test_either_key_is_good() -> None:
    assert [webhooks.verify(BODY, signature(key=key), KEYS)["id"] for key in KEYS] == ["EV_1", "EV_1"]


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_not_and_is_not_repeated(name: str) -> None:
    authorization = WRONG[name]()
    with pytest.raises(WrongSignature) as refused:
        webhooks.verify(BODY, authorization, KEYS)
    assert not any(text in str(refused.value) for text in (authorization or "-", *KEYS.values(), "hush-hush"))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"7", b"{", b"\xff", b"[" * 100_000], ids=["empty", "list", "number", "half", "bytes", "deep"]
)
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(WrongSignature):
        webhooks.verify(body, signature(body), KEYS)


def test_a_provider_takes_the_keys_that_it_was_given_and_hides_what_is_secret() -> None:
    secrets = {"api_key": NEWEST, "api_secret": KEYS[NEWEST], "previous_api_key": FORMER, "previous_api_secret": KEYS[FORMER]}
    provider = LiveKitProvider(BackendConfig("livekit", {"url": "ws://127.0.0.1:1"}, secrets))
    event = provider.verify_webhook(BODY, signature(key=FORMER))
    assert event == {"event": "room_started", "id": "EV_1", "room": {"name": "r"}}
    alone = LiveKitProvider(BackendConfig("livekit", {"url": "ws://127.0.0.1:1"}, {"api_key": NEWEST, "api_secret": KEYS[NEWEST]}))
    with pytest.raises(WrongSignature):
        alone.verify_webhook(BODY, signature(key=FORMER))


def test_secrets_are_taken_out_at_any_depth_and_what_cannot_be_stored_is_replaced() -> None:
    cleaned = webhooks.scrub(
        {
            "room": {"turnPassword": "hush-hush", "turn_password": "hush-hush", "name": "a\0b\ud800"},
            "ingressInfo": {"streamKey": "hush-hush", "tracks": [{"secret": "hush-hush", "sid": "TR_1"}]},
        }
    )
    assert cleaned == {"room": {"name": "a\N{REPLACEMENT CHARACTER}b?"}, "ingressInfo": {"tracks": [{"sid": "TR_1"}]}}


texts = st.text("aV1-_\0\N{SNOWMAN}", max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "event",
        "id",
        "createdAt",
        "room",
        "participant",
        "track",
        "name",
        "sid",
        "identity",
        "state",
        "kind",
        "joinedAt",
        "joinedAtMs",
        "tracks",
    ]
)
nearly_events = st.dictionaries(fields, json_values | st.dictionaries(fields, json_values, max_size=6), max_size=8)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
@given(nearly_events)
def test_whatever_it_holds_is_read_without_an_error(event: dict[str, object]) -> None:
    cleaned = webhooks.scrub(event)
    assert webhooks.scrub(cleaned) == cleaned
    read = webhooks.read(cleaned)
    assert isinstance(read.room, str)
    assert read.at is None or read.at.tzinfo is not None


def test_an_event_of_a_track_tells_an_agent_by_its_name_alone() -> None:
    room = tokens.room_name(uuid4())
    event = {
        "event": "track_published",
        "room": {"name": room},
        "participant": {"sid": "PA_1", "identity": "agent-AJ_x"},
        "track": {"sid": "T"},
    }
    who = webhooks.read(event).participant
    assert who is not None
    assert (who.role, who.has_audio) == ("agent", True)
    silent = webhooks.read({**event, "track": {"sid": "T", "type": "DATA"}}).participant
    assert silent is not None
    assert not silent.has_audio
    # Whoever chooses that name without being one is told apart where LiveKit says what they are.
    joined = {"event": "participant_joined", "room": {"name": room}, "participant": {"identity": "agent-x", "state": "ACTIVE"}}
    stranger = webhooks.read(joined).participant
    assert stranger is not None
    assert stranger.role == "other"


class Inbox:
    """Takes what a server tells."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/inbox"
        self.told: list[tuple[bytes, str]] = []

    async def take(self, request: web.Request) -> web.Response:
        self.told.append((await request.read(), request.headers.get("Authorization", "")))
        return web.Response()


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    taken = Inbox()
    application = web.Application()
    application.add_routes([web.post("/inbox", taken.take)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", taken.port).start()
    yield taken
    await runner.cleanup()


async def test_what_a_real_server_tells_of_a_call_is_read(new_livekit: NewLiveKit, inbox: Inbox) -> None:
    server = new_livekit(webhooks=[inbox.url])
    provider = provider_of(server)
    session = await provider.open(request_for(provider))
    async with inside(session.client) as ann:
        await ann.publish()
        await until(lambda: any(b"track_published" in body for body, _ in inbox.told), "the track's event")
    await until(lambda: any(b"participant_left" in body for body, _ in inbox.told), "the leaving")
    await provider.close(session)
    await until(lambda: any(b"room_finished" in body for body, _ in inbox.told), "the end of the room")
    assert any(b"turnPassword" in body for body, _ in inbox.told)
    kept = [provider.verify_webhook(body, authorization) for body, authorization in inbox.told]
    assert "turnPassword" not in json.dumps(kept)
    events = [provider.read_event(event) for event in kept]
    assert {event.session_id for event in events} == {session.session_id}
    assert len({event.room_sid for event in events}) == 1
    assert len({event.id for event in events}) == len(events)
    assert all(event.at is not None for event in events)
    kinds = [event.kind for event in events]
    assert kinds[:3] == ["room_started", "participant_joined", "track_published"]
    assert kinds[-1] == "room_finished"
    joined, left = (next(event for event in events if event.kind == kind) for kind in ("participant_joined", "participant_left"))
    assert joined.participant is not None
    assert left.participant is not None
    assert (joined.participant.role, joined.participant.active) == ("user", True)
    assert joined.participant.sid == left.participant.sid
    assert left.reason == "CLIENT_INITIATED"
    published = next(event for event in events if event.kind == "track_published").participant
    assert published is not None
    assert (published.role, published.has_audio) == ("user", True)
    await provider.aclose()
