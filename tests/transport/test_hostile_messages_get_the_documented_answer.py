"""What a connection may send: each wrong thing is an ``error``, the tenth closes, and nothing of it ends anybody else's call."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sessions_app.transport.consumers import VoiceConsumer
from tests.calls import Client, Closed, House, make_backend, make_tenant, scope, until

FRAME = bytes(960)


@pytest.fixture
async def caller(home: House) -> Any:
    tenant = await make_tenant()
    await make_backend()
    return home.caller(tenant)


async def test_a_client_that_does_not_start_is_closed(home: House, settings: Any) -> None:
    settings.VOICE_START_TIMEOUT_S = 0.05
    client = home.caller(await make_tenant())
    client.says({"type": "ping", "t": 1})
    assert (await client.hears())["type"] == "pong"
    assert (await client.hears("error"))["code"] == "invalid_message"
    assert await client.hears() == Closed(4400)


async def test_the_tenth_error_closes_with_4400(caller: Any) -> None:
    for number in range(10):
        caller.says("nonsense" if number % 2 else '{"type":"what"}')
    for _ in range(10):
        assert (await caller.hears())["code"] == "invalid_message"
    assert await caller.hears() == Closed(4400)


async def test_errors_count_in_the_session_and_not_in_the_connection(home: House) -> None:
    tenant = await make_tenant()
    await make_backend()
    token = home.token(tenant)
    first = home.connect(token)
    await first.starts()
    for _ in range(9):
        first.says("nonsense")
        await first.hears("error")
    await first.leaves()
    second = home.connect(token)
    await second.starts()
    second.says("nonsense")
    await second.hears("error")
    assert await second.hears() == Closed(4400)


async def test_audio_before_the_start_is_an_error(caller: Any) -> None:
    caller.says(FRAME)
    assert (await caller.hears("error"))["code"] == "audio_before_start"
    await caller.starts()
    caller.says(FRAME)
    assert await caller.hears(bytes) == FRAME


@pytest.mark.parametrize("audio", [b"", b"x", FRAME[:-1], FRAME + b"x"])
async def test_audio_that_is_not_whole_frames_is_an_error(caller: Any, audio: bytes) -> None:
    await caller.starts()
    caller.says(audio)
    assert (await caller.hears("error"))["code"] == "invalid_audio"


@pytest.mark.parametrize(
    ("message", "code"), [(bytes(960 * 69), "invalid_audio"), ("x" * 65_537, "invalid_message"), ("ä" * 32_769, "invalid_message")]
)
async def test_a_message_over_64_kib_closes(caller: Any, message: Any, code: str) -> None:
    await caller.starts()
    caller.says(message)
    assert (await caller.hears("error"))["code"] == code
    assert await caller.hears() == Closed(4400)


async def test_a_second_start_and_a_stop_without_a_session_are_errors(caller: Any) -> None:
    caller.says({"type": "session.stop"})
    assert (await caller.hears("error"))["code"] == "invalid_message"
    await caller.starts()
    caller.says({"type": "session.start"})
    assert (await caller.hears("error"))["code"] == "invalid_message"


async def test_a_flood_of_messages_is_told_too_fast_and_closed(caller: Any) -> None:
    for number in range(200):
        caller.says({"type": "ping", "t": number})
    assert (await caller.hears("error"))["code"] == "too_fast"
    assert (await caller.hears(Closed)).code == 4400
    assert len(caller.said) < 100


async def test_a_flood_of_audio_is_told_too_fast_and_closed(caller: Any) -> None:
    await caller.starts()
    for _ in range(3_000):
        caller.says(FRAME)
    assert (await caller.hears("error"))["code"] == "too_fast"
    assert (await caller.hears(Closed)).code == 4400


async def test_half_a_minute_that_was_held_up_by_the_network_is_no_flood(caller: Any) -> None:
    await caller.starts()
    for _ in range(1_400):
        caller.says(FRAME)
    caller.says({"type": "ping", "t": 1})
    await caller.hears("pong")
    assert not [each for each in caller.said if isinstance(each, dict) and each["type"] == "error"]


async def test_a_reader_that_stops_reading_is_bounded_and_disturbs_nobody(home: House) -> None:
    tenant = await make_tenant()
    await make_backend(options={"delay_ms": 0})
    slow, good = home.caller(tenant, "slow"), home.caller(tenant, "good")
    session_id = (await slow.starts())["session_id"]
    await good.starts()
    runner = next(each for each in home.sessions._runners.values() if str(each.attempt.session_id) == session_id)
    slow.reads.clear()
    relay = runner._relay
    assert relay is not None
    for number in range(400):
        relay.downlink.put(FRAME)
        if number < 40:
            slow.says({"type": "ping"})
    assert len(relay.downlink) <= 250
    assert relay.downlink.dropped >= 150
    good.says(FRAME)
    assert await good.hears(bytes) == FRAME
    slow.says({"type": "session.stop"})
    await until(lambda: runner.over)
    slow.reads.set()
    assert (await slow.hears("session.ended"))["reason"] == "completed"


async def test_a_last_word_that_nobody_reads_is_given_up(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessions_app.transport.consumers.FLUSH_S", 0.05)
    tenant = await make_tenant()
    await make_backend()
    client = home.caller(tenant)
    await client.starts()
    client.reads.clear()
    client.says({"type": "session.stop"})
    await until(client.task.done)
    assert Closed(1000) not in client.said


@hypothesis_settings(max_examples=30, deadline=None)
@given(sent=st.lists(st.text(max_size=40) | st.binary(max_size=40), max_size=15))
def test_whatever_is_sent_the_consumer_ends_in_order(sent: list[Any]) -> None:
    """Without a database: nothing here gets as far as a session."""

    async def connection() -> None:
        sessions: Any = SimpleNamespace(home=SimpleNamespace(draining=False))
        token = House.token(SimpleNamespace(pk=1))  # type: ignore[arg-type]
        client = Client(VoiceConsumer.as_asgi(sessions=lambda: sessions), scope(token=token))
        for thing in sent:
            client.says(thing if isinstance(thing, bytes) else "!" + thing)
        await client.leaves()
        problems = [each for each in client.said if isinstance(each, dict)]
        assert len(problems) <= 10
        assert {each["code"] for each in problems} <= {"invalid_message", "audio_before_start"}

    asyncio.run(connection())
