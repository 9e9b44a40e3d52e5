"""A session whose agent does not come in time asks for one again, goes elsewhere or ends, as its backend is set."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from sessions_app.providers.livekit import tokens
from sessions_app.runtime.database import in_thread
from tests.calls import record, slots
from tests.livekit.people import Person, inside, until
from tests.livekit_server import NewLiveKit
from tests.rooms.scene import Scene, closed, make_backend, room_of, state_is


def as_agent(stage: Scene, session_id: str) -> dict[str, object]:
    """What an agent enters with."""
    return {"url": stage.server.url, "token": tokens.for_agent(UUID(session_id), key=stage.server.key, secret=stage.server.secret)}


async def agent_is(session_id: str, here: bool) -> None:
    async def so() -> bool:
        return (await room_of(session_id)).agent_here is here

    await until(so, "the agent")


@pytest.mark.parametrize(("policy", "tries"), [("retry", 1), ("end", 0)])
async def test_a_session_without_one_ends(stage: Scene, policy: str, tries: int) -> None:
    await stage.options(agent_timeout_s=1, agent_name="nobody", on_agent_absent=policy)
    client, started = await stage.starts()
    async with inside(started["livekit"]) as person:
        ended = await heard(client, "session.ended")
        assert ended["reason"] == "agent_absent"
        await person.gone
    over = await record(started["session_id"])
    assert (over.state, over.reason) == ("failed", "agent_absent")
    assert (await room_of(started["session_id"])).agent_tries == tries
    assert await slots() == 0
    await closed(started["session_id"])


async def test_one_that_comes_with_its_sound_is_enough(stage: Scene) -> None:
    await stage.options(agent_timeout_s=2, agent_name="somebody", on_agent_absent="end")
    _, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(as_agent(stage, session_id)) as agent, inside(started["livekit"]):
        await agent.publish()
        await agent_is(session_id, True)
        assert (await room_of(session_id)).agent_by is None
        await state_is(session_id, "active")


async def test_one_that_is_asked_for_again_may_come(stage: Scene) -> None:
    await stage.options(agent_timeout_s=2, agent_name="late")
    _, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(started["livekit"]):

        async def asked_again() -> bool:
            return (await room_of(session_id)).agent_tries == 1

        await until(asked_again, "the second dispatch")
        async with inside(as_agent(stage, session_id)) as agent:
            await agent.publish()
            await agent_is(session_id, True)
            assert (await record(session_id)).state == "active"


async def test_one_that_hangs_up_has_ended_the_session(stage: Scene) -> None:
    await stage.options(agent_timeout_s=5, agent_name="short")
    client, started = await stage.starts()
    session_id = started["session_id"]
    async with inside(started["livekit"]):
        agent = Person()
        await agent.enter(**as_agent(stage, session_id))  # type: ignore[arg-type]
        await agent.publish()
        await agent_is(session_id, True)
        await agent.leave()
        assert (await heard(client, "session.ended"))["reason"] == "provider_ended"


async def test_another_backend_takes_it_and_its_client_is_told_where(stage: Scene, new_livekit: NewLiveKit) -> None:
    await stage.options(agent_timeout_s=1, agent_name="nobody", on_agent_absent="other")
    elsewhere = await asyncio.to_thread(new_livekit)
    other = await in_thread(make_backend, elsewhere, "spare")
    client, started = await stage.starts(backend="livekit")
    session_id = started["session_id"]
    async with inside(started["livekit"]) as person:
        await state_is(session_id, "active")
        moved = await heard(client, "session.resumed")
        assert (moved["backend"], moved["livekit"]["url"]) == ("spare", elsewhere.url)
        await person.gone
        async with inside(moved["livekit"]):
            await state_is(session_id, "active")
            assert (await record(session_id)).backend_id == other.pk
            assert await stage.rooms() == []
            assert await slots() == 1
            client.says({"type": "session.stop"})
            assert (await heard(client, "session.ended"))["reason"] == "completed"
    assert await slots() == 0


async def heard(client: Any, what: str) -> Any:
    """Agents have longer than a client usually waits here."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await client.hears(what)
            except TimeoutError:
                continue
