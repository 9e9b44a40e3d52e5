"""Every way that a session ends: the reason in the history, the word and the close for the client, the slot free."""

import asyncio
from typing import Any

import pytest

from sessions_app.domain.states import Reason
from sessions_app.models import SessionEvent
from sessions_app.runtime.database import in_thread
from tests.calls import Client, Closed, House, ends, make_backend, make_tenant, record, slots, until


async def dies(home: House, **options: Any) -> tuple[Client, str]:
    await make_backend(options=options)
    client = home.caller(await make_tenant())
    return client, (await client.starts())["session_id"]


@pytest.mark.parametrize(
    ("options", "reason", "state", "close"),
    [
        ({"end_after_ms": 30}, "provider_ended", "ended", 1000),
        ({"die_after_ms": 30}, "provider_failed", "failed", 4503),
        ({"pipeline_error_after_ms": 30}, "pipeline_error", "failed", 4503),
    ],
)
async def test_a_backend_that_goes_away_ends_the_session(home: House, options: Any, reason: str, state: str, close: int) -> None:
    client, session_id = await dies(home, **options)
    assert (await client.hears("session.ended"))["reason"] == reason
    assert await client.hears() == Closed(close)
    over = await record(session_id)
    assert (over.state, over.reason) == (state, reason)
    assert await slots() == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"fail_open": True}, "connection_failed"), ({"hang_open": True}, "timeout"), ({"nonsense": 1}, "connection_failed")],
)
async def test_a_backend_that_does_not_open_fails_the_session(home: House, settings: Any, options: Any, reason: str) -> None:
    settings.VOICE_OPEN_TIMEOUT_S = 0.2
    await make_backend(options=options)
    client = home.caller(await make_tenant())
    client.says({"type": "session.start"})
    assert (await client.hears("session.rejected"))["code"] == reason
    assert await client.hears() == Closed(4503)

    async def failed() -> bool:
        return await in_thread(lambda: SessionEvent.objects.filter(new="failed", reason=reason).count()) == 1

    await until(failed)
    assert await slots() == 0


async def test_the_next_healthy_backend_is_tried(home: House) -> None:
    await make_backend("a-broken", options={"fail_open": True})
    await make_backend("b-good", options={"delay_ms": 0})
    client = home.caller(await make_tenant())
    started = await client.starts()
    assert started["backend"] == "b-good"
    client.says(bytes(960))
    await client.hears(bytes)
    assert (await record(started["session_id"])).state == "active"


async def test_no_more_than_three_backends_are_tried(home: House) -> None:
    for name in "abcde":
        await make_backend(name, options={"fail_open": True})
    client = home.caller(await make_tenant())
    client.says({"type": "session.start"})
    assert (await client.hears("session.rejected"))["code"] == "connection_failed"
    moves = await in_thread(lambda: SessionEvent.objects.filter(old="starting", new="starting").count())
    assert moves == 2


async def test_a_session_that_lasts_too_long_is_ended(home: House) -> None:
    await make_backend()
    client = home.caller(await make_tenant(max_duration_s=1))
    await client.starts()
    ended = await client.hears("session.ended")
    assert ended["reason"] == "max_duration"
    assert 500 <= ended["duration_ms"] <= 10_000
    assert await client.hears() == Closed(4000)


async def test_a_session_in_which_nothing_is_said_is_ended_and_one_with_audio_is_not(home: House) -> None:
    await make_backend(options={"delay_ms": 0})
    tenant = await make_tenant(idle_timeout_s=1)
    silent, talking = home.caller(tenant, "silent"), home.caller(tenant, "talking")
    await silent.starts()
    await talking.starts()

    async def talk() -> None:
        while True:
            talking.says(bytes(960))
            await asyncio.sleep(0.1)

    speech = asyncio.create_task(talk())
    assert (await silent.hears("session.ended"))["reason"] == "idle_timeout"
    assert await silent.hears() == Closed(4000)
    await asyncio.sleep(0.3)
    speech.cancel()
    assert not [each for each in talking.said if isinstance(each, dict) and each["type"] == "session.ended"]
    assert (await talking.hears("session.ended"))["reason"] == "idle_timeout"


async def test_a_backend_that_hangs_while_closing_does_not_keep_the_slot(home: House, settings: Any) -> None:
    settings.VOICE_CLOSE_TIMEOUT_S = 0.3
    client, _ = await dies(home, hang_close=True)
    client.says({"type": "session.stop"})
    await asyncio.sleep(0.1)
    assert await slots() == 1
    await client.hears("session.ended")
    assert await slots() == 0


async def test_a_stop_while_the_backend_opens_completes_the_session(home: House) -> None:
    await make_backend(options={"hang_open": True})
    client = home.caller(await make_tenant())
    client.says({"type": "session.start"})

    async def starting() -> bool:
        return await slots() == 1

    await until(starting)
    client.says({"type": "session.stop"})
    assert await client.hears() == {"type": "session.ended", "reason": "completed", "duration_ms": 0}
    assert await client.hears() == Closed(1000)
    assert await slots() == 0


async def test_of_many_ends_at_once_the_first_counts(home: House) -> None:
    client, session_id = await dies(home)
    runner = next(iter(home.sessions._runners.values()))
    runner.finish(Reason.TERMINATED, "by hand", actor="ops")
    for reason in (Reason.COMPLETED, Reason.IDLE_TIMEOUT, Reason.CLIENT_LOST):
        runner.finish(reason)
    assert (await client.hears("session.ended"))["reason"] == "terminated"
    assert await client.hears() == Closed(4410)
    over = await ends(session_id)
    assert (over.reason, over.detail) == ("terminated", "by hand")
    ended = await in_thread(lambda: list(SessionEvent.objects.filter(session_id=session_id, new="ended").values_list("actor", flat=True)))
    assert ended == ["ops"]


async def test_all_of_a_process_end_when_it_goes_down(home: House) -> None:
    await make_backend()
    tenant = await make_tenant()
    clients = [home.caller(tenant, f"user{number}") for number in range(5)]
    for client in clients:
        await client.starts()
    assert await home.sessions.stop_all(hand_over=False, timeout_s=5) == 0
    for client in clients:
        assert (await client.hears("session.ended"))["reason"] == "drained"
        assert await client.hears() == Closed(4012)
    assert len(home.sessions) == 0
    assert await slots() == 0


async def test_without_the_store_the_answer_is_unavailable_at_once(home: House) -> None:
    tenant = await make_tenant()
    await make_backend()
    token = home.token(tenant)
    client = home.connect(token)
    await in_thread(home.node.batcher.stop)
    client.says({"type": "session.start"})
    refused = await client.hears("session.rejected")
    assert (refused["code"], refused["retry_after_s"]) == ("unavailable", 5)
    assert await client.hears() == Closed(4013)
    home.node.batcher.start()
    await until(lambda: home.node.batcher.connected)
    # It was never admitted, so its token is still good.
    await home.connect(token).starts()
