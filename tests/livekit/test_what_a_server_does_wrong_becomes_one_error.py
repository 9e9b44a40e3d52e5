"""A LiveKit that refuses, is away, hangs or is none at all: one error of ours for each, within bounds, and no secret in any of them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from sessions_app.providers.base import BackendConfig, ProviderSession
from sessions_app.providers.exceptions import AgentAbsent, ConnectionFailed, InvalidConfig, OpenTimeout, ProviderError, ProviderFailed
from sessions_app.providers.livekit import client
from sessions_app.providers.livekit.provider import LiveKitProvider
from tests.livekit_server import config_of
from tests.platform.instance import free_port
from tests.providers.contract import request_for
from voiceplatform.embedded.livekit import LiveKit, new_keys

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def answering(handler: Handler) -> AsyncIterator[str]:
    """Something that takes every call, and its address."""
    application = web.Application()
    application.add_routes([web.route("*", "/{path:.*}", handler)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def config(url: str, **options: object) -> BackendConfig:
    ((key, secret),) = new_keys().items()
    return BackendConfig("livekit", {"url": url, "agent_timeout_s": 0, **options}, {"api_key": key, "api_secret": secret})


async def failures(of: BackendConfig, caplog: pytest.LogCaptureFixture) -> list[ProviderError]:
    """What each call ends with; none of them, and no log line, holds a secret."""
    caplog.set_level(logging.DEBUG)
    provider = LiveKitProvider(of)
    request = request_for(provider)
    name = provider.room_name(request.session_id)
    found: list[ProviderError] = []
    for call in (
        lambda: provider.open(request),
        lambda: provider.probe(),
        lambda: provider.list_rooms(),
        lambda: provider.list_participants(name),
        lambda: provider.remove_room(name),
        lambda: provider.remove_participant(name, "ann"),
    ):
        with pytest.raises(ProviderError) as failed:
            await call()
        found.append(failed.value)
    await provider.aclose()
    told = caplog.text + "".join(f"{error} {error!r} {error.__cause__!r}" for error in found)
    assert not any(secret in told for secret in of.secrets.values())
    assert "eyJ" not in told
    return found


async def test_a_wrong_secret_is_a_wrong_configuration(livekit: LiveKit, caplog: pytest.LogCaptureFixture) -> None:
    good = config_of(livekit)
    wrong = BackendConfig(good.name, good.options, {**good.secrets, "api_secret": "hush-hush-hush-hush-hush-hush-hush-hush"})
    assert {type(each) for each in await failures(wrong, caplog)} == {InvalidConfig}


async def test_an_unknown_key_is_a_wrong_configuration(livekit: LiveKit, caplog: pytest.LogCaptureFixture) -> None:
    assert {type(each) for each in await failures(config(livekit.url), caplog)} == {InvalidConfig}


async def test_one_that_is_away_cannot_be_reached(caplog: pytest.LogCaptureFixture) -> None:
    assert {type(each) for each in await failures(config(f"ws://127.0.0.1:{free_port()}"), caplog)} == {ConnectionFailed}


async def test_one_that_is_no_livekit_is_told_as_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>Welcome to a web server</html>", content_type="text/html")

    async with answering(page) as url:
        assert {type(each) for each in await failures(config(url), caplog)} == {ProviderFailed}


async def test_one_that_hangs_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def hang(_: web.Request) -> web.Response:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async with answering(hang) as url:
        provider = LiveKitProvider(config(url, request_timeout_s=1))
        async with asyncio.timeout(20):
            with pytest.raises(OpenTimeout):
                await provider.open(request_for(provider))
        await provider.aclose()


@pytest.mark.parametrize(("status", "calls"), [(503, client.MAX_TRIES), (429, client.MAX_TRIES), (500, 1), (400, 1)])
async def test_who_is_busy_is_asked_again_and_who_has_failed_is_not(status: int, calls: int) -> None:
    asked = 0

    async def refuse(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"code": "unknown", "msg": "secret words"}, status=status)

    async with answering(refuse) as url:
        provider = LiveKitProvider(config(url))
        with pytest.raises(ProviderError) as failed:
            await provider.list_rooms()
        assert asked == calls
        assert "secret words" not in str(failed.value)
        await provider.aclose()


async def test_a_moment_of_trouble_is_not_noticed(livekit: LiveKit) -> None:
    asked = 0

    async def stumble(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=503) if asked < client.MAX_TRIES else web.Response(body=b"")  # an empty list

    async with answering(stumble) as url:
        provider = LiveKitProvider(config(url))
        assert await provider.list_rooms() == []
        await provider.aclose()


async def test_a_dispatch_is_asked_for_once_lest_two_agents_come() -> None:
    asked = 0

    async def refuse(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"code": "unavailable"}, status=503)

    async with answering(refuse) as url:
        provider = LiveKitProvider(config(url, agent_name="concierge"))
        request = request_for(provider)
        with pytest.raises(ConnectionFailed):
            await provider.dispatch_agent(provider.room_name(request.session_id), request)
        assert asked == 1
        await provider.aclose()


async def test_an_echo_agent_that_is_away_keeps_nobody_out_and_is_told_when_asked_again(
    livekit: LiveKit, caplog: pytest.LogCaptureFixture
) -> None:
    good = config_of(livekit, echo_agent_url=f"http://127.0.0.1:{free_port()}")
    provider = LiveKitProvider(good)
    request = request_for(provider)
    session = await provider.open(request)
    assert session.client["token"]
    with pytest.raises(ConnectionFailed):
        await provider.dispatch_agent(session.resource, request)
    await provider.close(session)
    await provider.aclose()
    assert not any(secret in caplog.text for secret in (*good.secrets.values(), "eyJ"))


async def test_an_echo_agent_that_refuses_is_an_absent_agent(livekit: LiveKit) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=503)

    async with answering(refuse) as url:
        provider = LiveKitProvider(config_of(livekit, echo_agent_url=url))
        request = request_for(provider)
        session = await provider.open(request)
        with pytest.raises(AgentAbsent):
            await provider.dispatch_agent(session.resource, request)
        await provider.close(session)
        await provider.aclose()


async def test_a_room_that_is_being_made_when_its_opening_is_given_up_does_not_outlive_the_closing() -> None:
    """Closing waits for the answer: a CreateRoom that is still under way would else make the room after it was deleted."""
    said: list[str] = []
    go_on, arrived = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        method = request.path.rpartition("/")[2]
        if method == "CreateRoom":
            arrived.set()
            await go_on.wait()
        said.append(method)
        return web.Response(body=b"")

    async with answering(slow) as url:
        provider = LiveKitProvider(config(url))
        request = request_for(provider)
        opening = asyncio.ensure_future(provider.open(request))
        await arrived.wait()
        opening.cancel()
        await asyncio.wait({opening})
        closing = asyncio.ensure_future(provider.close(ProviderSession.known(request.session_id)))
        await asyncio.wait({closing}, timeout=0.1)
        assert said == []
        go_on.set()
        await closing
        assert said == ["CreateRoom", "DeleteRoom"]
        await provider.aclose()
