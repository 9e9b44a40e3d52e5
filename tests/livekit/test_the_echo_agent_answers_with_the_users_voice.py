"""Who speaks in a room of the platform's hears their own voice from the echo agent, as long as both are there."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import aiohttp
import pytest

from sessions_app.providers.livekit import tokens
from sessions_app.providers.livekit.echo_agent import EchoAgent, serve
from sessions_app.providers.livekit.provider import LiveKitProvider
from tests.e2e.sound import LEAD_S, RATE, likeness, speech
from tests.livekit.people import inside, until
from tests.livekit_server import NewLiveKit, provider_of
from tests.providers.contract import request_for
from voiceplatform import listening
from voiceplatform.embedded.livekit import LiveKit, new_keys

SAME = 0.7
OTHER = 0.45


class Agent:
    """An echo agent that serves in this process."""

    def __init__(self, server: LiveKit, **limits: float) -> None:
        self.agent = EchoAgent({server.key: server.secret}, **limits)  # type: ignore[arg-type]
        self.listener: socket.socket = listening.listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.stop = asyncio.Event()
        self.task = asyncio.ensure_future(serve(self.agent, self.listener, self.stop))

    async def end(self) -> None:
        self.stop.set()
        await self.task
        self.listener.close()

    async def ask(self, url: str, token: str) -> int:
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/join", json={"url": url, "token": token}) as answer:
            return answer.status


NewAgent = Callable[..., Agent]


@pytest.fixture
async def new_agent() -> AsyncIterator[NewAgent]:
    async with AsyncExitStack() as made:

        def make(server: LiveKit, **limits: float) -> Agent:
            agent = Agent(server, **limits)
            made.push_async_callback(agent.end)
            return agent

        yield make


async def answers(provider: LiveKitProvider, session_id: UUID) -> bool:
    """Whether an agent with audio is in the session's room."""
    there = await provider.list_participants(provider.room_name(session_id))
    return any(each.role == "agent" and each.active and each.has_audio for each in there)


async def test_two_people_hear_their_own_voice_each_and_not_the_others(livekit: LiveKit, new_agent: NewAgent) -> None:
    provider = provider_of(livekit, echo_agent_url=new_agent(livekit).url)
    said = [speech(seed)[int((LEAD_S - 0.5) * RATE) :] for seed in (1, 2)]
    sessions = [await provider.open(request_for(provider)) for _ in said]
    async with inside(sessions[0].client) as ann, inside(sessions[1].client) as bob:
        for session, person in zip(sessions, (ann, bob), strict=True):
            await person.publish()
            await until(lambda session=session: answers(provider, session.session_id), "the agent")  # type: ignore[misc]
        await asyncio.gather(ann.say(said[0]), bob.say(said[1]))
        whole = [speech(seed) for seed in (1, 2)]
        # The last words may still be under way.
        await until(lambda: likeness(whole[0], ann.heard) > SAME, "ann's own voice")
        await until(lambda: likeness(whole[1], bob.heard) > SAME, "bob's own voice")
        assert likeness(whole[0], bob.heard) < OTHER
        assert likeness(whole[1], ann.heard) < OTHER
    for session in sessions:
        await provider.close(session)
    await provider.aclose()


async def test_it_leaves_when_the_room_ends(livekit: LiveKit, new_agent: NewAgent) -> None:
    agent = new_agent(livekit)
    provider = provider_of(livekit, echo_agent_url=agent.url)
    session = await provider.open(request_for(provider))
    await until(lambda: answers(provider, session.session_id), "the agent")
    assert agent.agent.rooms == {session.resource}
    await provider.close(session)
    await until(lambda: not agent.agent.rooms, "the agent's leaving")
    await provider.aclose()


async def test_it_leaves_when_nobody_has_been_there_for_a_while(livekit: LiveKit, new_agent: NewAgent) -> None:
    agent = new_agent(livekit, alone_s=0.5)
    provider = provider_of(livekit, echo_agent_url=agent.url)
    session = await provider.open(request_for(provider))
    async with inside(session.client):
        await until(lambda: answers(provider, session.session_id), "the agent")
    await until(lambda: not agent.agent.rooms, "the agent's leaving")
    await provider.close(session)
    await provider.aclose()


async def test_asked_twice_it_comes_once(livekit: LiveKit, new_agent: NewAgent) -> None:
    agent = new_agent(livekit)
    provider = provider_of(livekit, echo_agent_url=agent.url)
    request = request_for(provider)
    session = await provider.open(request)
    await until(lambda: answers(provider, session.session_id), "the agent")
    (before,) = await provider.list_participants(session.resource)
    await provider.open(request)
    await provider.dispatch_agent(session.resource, request)
    assert await provider.list_participants(session.resource) == [before]
    await provider.close(session)
    await provider.aclose()


async def test_it_comes_back_to_a_room_that_was_lost_with_its_server_and_made_again(new_livekit: NewLiveKit, new_agent: NewAgent) -> None:
    server = new_livekit()
    provider = provider_of(server, echo_agent_url=new_agent(server).url)
    request = request_for(provider)
    session = await provider.open(request)
    await until(lambda: answers(provider, session.session_id), "the agent")
    server.kill()
    server.start()
    assert await provider.list_rooms() == []
    await provider.open(request)
    await until(lambda: answers(provider, session.session_id), "the agent, again")
    await provider.close(session)
    await provider.aclose()


async def test_a_full_one_says_so_and_nobody_comes(livekit: LiveKit, new_agent: NewAgent) -> None:
    agent = new_agent(livekit, max_rooms=1)
    provider = provider_of(livekit, echo_agent_url=agent.url)
    first, second = [await provider.open(request_for(provider)) for _ in range(2)]
    await until(lambda: agent.agent.rooms, "the agent")
    (room,) = agent.agent.rooms
    other = first if room == second.resource else second
    assert await agent.ask(livekit.url, tokens.for_agent(other.session_id, key=livekit.key, secret=livekit.secret)) == 503
    assert not await answers(provider, other.session_id)
    for session in (first, second):
        await provider.close(session)
    await provider.aclose()


async def test_only_an_agents_token_of_a_known_key_is_an_invitation(livekit: LiveKit, new_agent: NewAgent) -> None:
    agent = new_agent(livekit)
    session_id = uuid4()
    ((key, secret),) = new_keys().items()
    wrong = {
        "another key": tokens.for_agent(session_id, key=key, secret=secret),
        "another secret": tokens.for_agent(session_id, key=livekit.key, secret=secret),
        "a user's": tokens.for_user(session_id, key=livekit.key, secret=livekit.secret),
        "no token": "hello",
    }
    assert {name: await agent.ask(livekit.url, token) for name, token in wrong.items()} == dict.fromkeys(wrong, 401)
    good = tokens.for_agent(session_id, key=livekit.key, secret=livekit.secret)
    assert await agent.ask("file:///etc/passwd", good) == 400
    assert await agent.ask(livekit.url, good * 100) == 413


async def test_no_log_line_holds_the_token_of_a_room_that_cannot_be_entered(
    livekit: LiveKit, new_agent: NewAgent, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    agent = new_agent(livekit)
    token = tokens.for_agent(uuid4(), key=livekit.key, secret=livekit.secret)
    assert await agent.ask(livekit.url, token) == 202
    await until(lambda: "could not stay" in caplog.text, "the failure")
    own = [record.getMessage() + str(vars(record)) for record in caplog.records if record.name.startswith("sessions_app")]
    assert own
    assert not any(token in line or token.split(".")[2] in line for line in own)
