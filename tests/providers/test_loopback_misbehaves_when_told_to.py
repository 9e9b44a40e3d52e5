"""Slow, failing, hanging, dying: each option does what it says, when it says."""

import asyncio

import pytest

from sessions_app.providers.base import ProviderSession
from sessions_app.providers.exceptions import AgentAbsent, ConnectionFailed, PipelineError, ProviderError, ProviderFailed
from tests.providers import virtual_clock
from tests.providers.loopback import FRAME_S, Listener, backend, frame, request
from tests.providers.virtual_clock import running_loop

NEARLY = 1e-6


async def talk(options: dict[str, object], *, seconds: float) -> tuple[Listener, float]:
    """Open, talk for so long, and listen to the end; return what was heard and when it ended."""
    provider = backend(**options)
    session = await provider.open(request())
    listener = Listener(provider, session)
    ended_at: list[float] = []
    listener.task.add_done_callback(lambda _: ended_at.append(running_loop().time()))
    for number in range(round(seconds / FRAME_S)):
        try:
            await provider.send(session, frame(number))
        except ProviderError:
            break
        await asyncio.sleep(FRAME_S)
    await provider.close(session)
    await asyncio.wait([listener.task])
    return listener, ended_at[0]


def test_opening_takes_as_long_as_it_is_told() -> None:
    async def scenario() -> None:
        await backend(open_delay_ms=1_500).open(request())
        assert abs(running_loop().time() - 1.5) < NEARLY

    virtual_clock.run(scenario())


def test_opening_always_fails() -> None:
    async def scenario() -> None:
        provider = backend(fail_open=True)
        for _ in range(3):
            with pytest.raises(ConnectionFailed, match="fail_open"):
                await provider.open(request())
        assert await provider.list_live() == []

    virtual_clock.run(scenario())


def test_opening_fails_so_many_times_and_then_works() -> None:
    async def scenario() -> None:
        provider = backend(fail_open=2)
        for _ in range(2):
            with pytest.raises(ConnectionFailed):
                await provider.open(request())
        await provider.open(request())
        assert len(await provider.list_live()) == 1

    virtual_clock.run(scenario())


@pytest.mark.parametrize("never", [False, 0])
def test_opening_does_not_fail_when_the_option_says_never(never: bool | int) -> None:
    virtual_clock.run(backend(fail_open=never).open(request()))


def test_an_opening_that_hangs_can_be_cut_short_and_leaves_nothing() -> None:
    async def scenario() -> None:
        provider = backend(hang_open=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await provider.open(request())
        assert await provider.list_live() == []

    virtual_clock.run(scenario())


def test_it_dies_in_mid_session() -> None:
    listener, ended_at = virtual_clock.run(talk({"die_after_ms": 1_000}, seconds=3))
    assert isinstance(listener.task.exception(), ProviderFailed)
    assert abs(ended_at - 1) < NEARLY
    assert 35 <= len(listener.frames) <= 41


def test_its_pipeline_dies_in_mid_session() -> None:
    listener, ended_at = virtual_clock.run(talk({"pipeline_error_after_ms": 500}, seconds=3))
    assert isinstance(listener.task.exception(), PipelineError)
    assert abs(ended_at - 0.5) < NEARLY


def test_nobody_answers() -> None:
    listener, ended_at = virtual_clock.run(talk({"absent_after_ms": 500}, seconds=3))
    assert isinstance(listener.task.exception(), AgentAbsent)
    assert abs(ended_at - 0.5) < NEARLY


def test_it_hangs_up() -> None:
    listener, ended_at = virtual_clock.run(talk({"end_after_ms": 1_000}, seconds=3))
    assert listener.task.exception() is None
    assert abs(ended_at - 1) < NEARLY


def test_it_stops_answering_but_stays_open() -> None:
    listener, ended_at = virtual_clock.run(talk({"hang_after_ms": 1_000}, seconds=3))
    assert listener.task.exception() is None
    assert abs(ended_at - 3) < 0.01
    assert listener.times[-1] <= 1 + NEARLY


def test_what_happens_first_is_how_it_ends() -> None:
    listener, ended_at = virtual_clock.run(talk({"end_after_ms": 400, "die_after_ms": 800}, seconds=3))
    assert listener.task.exception() is None
    assert abs(ended_at - 0.4) < NEARLY


def test_a_reader_that_comes_after_the_death_is_told_too() -> None:
    async def scenario() -> None:
        provider = backend(die_after_ms=100)
        session = await provider.open(request())
        await asyncio.sleep(1)
        with pytest.raises(ProviderFailed, match="die_after_ms"):
            await anext(provider.receive(session))
        await provider.close(session)
        assert await provider.list_live() == []

    virtual_clock.run(scenario())


def test_closing_takes_as_long_as_it_is_told_and_the_session_is_held_meanwhile() -> None:
    async def scenario() -> None:
        provider = backend(close_delay_ms=2_000)
        session = await provider.open(request())
        listener = Listener(provider, session)
        closing = asyncio.create_task(provider.close(session))
        await asyncio.sleep(1)
        assert len(await provider.list_live()) == 1
        assert listener.task.done()
        await closing
        assert abs(running_loop().time() - 2) < NEARLY
        assert await provider.list_live() == []

    virtual_clock.run(scenario())


def test_a_closing_that_hangs_can_be_cut_short_but_the_session_stays_held() -> None:
    async def scenario() -> None:
        provider = backend(hang_close=True)
        session = await provider.open(request())
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await provider.close(session)
        assert [live.session_id for live in await provider.list_live()] == [session.session_id]
        await provider.aclose()
        assert await provider.list_live() == []

    virtual_clock.run(scenario())


def test_the_probe_fails_so_many_times_and_then_answers_with_its_latency() -> None:
    async def scenario() -> None:
        provider = backend(fail_probe=2, probe_delay_ms=300)
        for _ in range(2):
            with pytest.raises(ConnectionFailed, match="fail_probe"):
                await provider.probe()
        assert abs((await provider.probe()).latency_ms - 300) < NEARLY * 1000

    virtual_clock.run(scenario())


def test_closing_the_first_opening_does_not_end_the_one_that_took_its_place() -> None:
    async def scenario() -> None:
        provider = backend()
        wanted = request()
        first, second = await provider.open(wanted), await provider.open(wanted)
        assert [item async for item in provider.receive(first)] == []
        await provider.close(first)
        listener = Listener(provider, second)
        await provider.send(second, frame(7))
        await asyncio.sleep(1)
        assert listener.frames == [frame(7)]
        await provider.close(second)
        await listener.task

    virtual_clock.run(scenario())


def test_audio_for_a_session_that_another_process_opened_is_refused() -> None:
    async def scenario() -> None:
        provider = backend()
        foreign = ProviderSession.known(request().session_id)
        with pytest.raises(ProviderFailed):
            await provider.send(foreign, frame(1))
        with pytest.raises(ProviderFailed):
            provider.receive(foreign)

    virtual_clock.run(scenario())
