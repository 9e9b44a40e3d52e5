"""Queues are bounded, the oldest audio goes first and is counted, and a session costs one timer at most."""

import asyncio
import itertools
import traceback

import pytest

from sessions_app.providers.base import ProviderSession
from sessions_app.providers.exceptions import ProviderFailed
from sessions_app.providers.loopback.echo import CATCH_UP_S, Echo
from tests.providers import virtual_clock
from tests.providers.loopback import FRAME_S, Listener, backend, frame, request


def dropped(session: ProviderSession) -> int:
    assert isinstance(session.state, Echo)
    return session.state.dropped


def test_of_a_flood_the_oldest_is_dropped_and_the_newest_spoken_without_a_hole() -> None:
    async def scenario() -> tuple[Listener, int]:
        provider = backend(delay_ms=200)
        session = await provider.open(request())
        listener = Listener(provider, session)
        for number in range(1_000):
            await provider.send(session, frame(number))
        await asyncio.sleep(20)
        count = dropped(session)
        await provider.close(session)
        await listener.task
        return listener, count

    listener, count = virtual_clock.run(scenario())
    assert len(listener.frames) + count == 1_000
    assert len(listener.frames) == 160  # the delay and three seconds
    assert listener.frames == [frame(number) for number in range(count, 1_000)]
    assert abs(listener.times[0] - 0.2) < 0.002
    assert all(later - sooner <= FRAME_S + 0.001 for sooner, later in itertools.pairwise(listener.times))


def test_the_longest_message_loses_nothing() -> None:
    async def scenario() -> tuple[Listener, int]:
        provider = backend(sample_rate=16_000, delay_ms=0)
        session = await provider.open(request())
        listener = Listener(provider, session)
        await provider.send(session, bytes(range(256)) * 250)
        await asyncio.sleep(5)
        count = dropped(session)
        await provider.close(session)
        await listener.task
        return listener, count

    listener, count = virtual_clock.run(scenario())
    assert b"".join(listener.frames) == bytes(range(256)) * 250
    assert count == 0


def test_a_reader_that_was_kept_away_is_given_the_last_half_second_and_then_the_usual_pace() -> None:
    async def scenario() -> tuple[Listener, int, float]:
        provider = backend(delay_ms=100)
        session = await provider.open(request())
        for number in range(150):
            await provider.send(session, frame(number))
            await asyncio.sleep(FRAME_S)
        back_at = virtual_clock.running_loop().time()
        listener = Listener(provider, session)
        await asyncio.sleep(1)
        count = dropped(session)
        await provider.close(session)
        await listener.task
        return listener, count, back_at

    listener, count, back_at = virtual_clock.run(scenario())
    assert count > 0
    assert listener.frames == [frame(number) for number in range(count, 150)]
    at_once = [time for time in listener.times if time - back_at < 0.001]
    assert len(at_once) <= CATCH_UP_S / FRAME_S + 1
    assert listener.times[-1] - back_at >= 0.06


def test_a_short_stall_of_the_process_loses_nothing() -> None:
    async def scenario() -> tuple[Listener, int]:
        provider = backend(delay_ms=100)
        session = await provider.open(request())
        listener = Listener(provider, session)
        for number in range(100):
            await provider.send(session, frame(number))
            await asyncio.sleep(FRAME_S)
            if number % 30 == 29:
                virtual_clock.running_loop().stall(0.3)
        await asyncio.sleep(1)
        count = dropped(session)
        await provider.close(session)
        await listener.task
        return listener, count

    listener, count = virtual_clock.run(scenario())
    assert listener.frames == [frame(number) for number in range(100)]
    assert count == 0


def test_a_session_has_no_task_of_its_own_and_at_most_one_timer_a_frame() -> None:
    async def scenario() -> None:
        provider = backend()
        session = await provider.open(request())
        listener = Listener(provider, session)
        tasks, loop = len(asyncio.all_tasks()), virtual_clock.running_loop()
        before = len(loop.timers)
        for number in range(20):
            await provider.send(session, frame(number))
        assert len(asyncio.all_tasks()) == tasks
        await asyncio.sleep(2)
        assert len(loop.timers) - before <= 20 + 1  # and this test's own sleep
        await provider.close(session)
        await listener.task

    virtual_clock.run(scenario())


def test_a_session_that_was_closed_leaves_no_timer_behind() -> None:
    async def scenario() -> None:
        provider = backend(die_after_ms=3_000_000, hang_after_ms=2_000_000)
        session = await provider.open(request())
        listener = Listener(provider, session)
        await provider.send(session, frame(1))
        await asyncio.sleep(0.1)
        assert virtual_clock.running_loop().timers_ahead() == 3
        await provider.close(session)
        await listener.task
        assert virtual_clock.running_loop().timers_ahead() == 0

    virtual_clock.run(scenario())


def test_the_error_of_a_dead_session_does_not_grow_with_every_frame_that_is_sent() -> None:
    async def scenario() -> None:
        provider = backend(die_after_ms=0)
        session = await provider.open(request())
        await asyncio.sleep(0.1)
        lengths = []
        for number in range(50):
            with pytest.raises(ProviderFailed) as caught:
                await provider.send(session, frame(number))
            lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
        assert lengths[0] == lengths[-1]
        await provider.close(session)

    virtual_clock.run(scenario())


def test_a_second_reader_at_the_same_time_is_a_mistake_that_is_told() -> None:
    async def scenario() -> None:
        provider = backend()
        session = await provider.open(request())
        listener = Listener(provider, session)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="read already"):
            await anext(provider.receive(session))
        await provider.close(session)
        await listener.task

    virtual_clock.run(scenario())
