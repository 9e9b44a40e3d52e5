"""The same bytes, in the same order, after the delay, at the pace of speech."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.providers import virtual_clock
from tests.providers.loopback import FRAME_S, Listener, backend, frame, request

NEARLY = 1e-6  # seconds; virtual time is exact but for rounding
EARLY = 0.001 + NEARLY  # a timer's resolution


def test_each_frame_comes_back_after_the_delay_for_a_whole_minute() -> None:
    async def scenario() -> tuple[list[float], Listener]:
        provider = backend(delay_ms=200)
        session = await provider.open(request())
        listener = Listener(provider, session)
        sent = []
        for number in range(3_000):
            sent.append(virtual_clock.running_loop().time())
            await provider.send(session, frame(number))
            await asyncio.sleep(FRAME_S)
        await asyncio.sleep(1)
        await provider.close(session)
        await listener.task
        return sent, listener

    sent, listener = virtual_clock.run(scenario())
    assert listener.frames == [frame(number) for number in range(3_000)]
    assert all(abs(out - into - 0.2) < EARLY for into, out in zip(sent, listener.times, strict=True))


@given(
    delay_ms=st.integers(0, 400),
    gaps_ms=st.lists(st.integers(0, 120), max_size=80),
    bunches=st.lists(st.integers(1, 4), min_size=80, max_size=80),
)
def test_whatever_the_rhythm_the_order_and_the_bytes_are_kept_and_nothing_comes_early(
    delay_ms: int, gaps_ms: list[int], bunches: list[int]
) -> None:
    async def scenario() -> tuple[list[tuple[float, bytes]], Listener]:
        provider = backend(delay_ms=delay_ms)
        session = await provider.open(request())
        listener = Listener(provider, session)
        sent: list[tuple[float, bytes]] = []
        for gap_ms, bunch in zip(gaps_ms, bunches, strict=False):
            await asyncio.sleep(max(gap_ms, bunch * 20 - 30) / 1000)
            frames = [frame(len(sent) + number) for number in range(bunch)]
            sent += [(virtual_clock.running_loop().time(), one) for one in frames]
            await provider.send(session, b"".join(frames))
        await asyncio.sleep(10)
        await provider.close(session)
        await listener.task
        return sent, listener

    sent, listener = virtual_clock.run(scenario())
    assert listener.frames == [one for _, one in sent]
    assert all(out >= into + delay_ms / 1000 - EARLY for (into, _), out in zip(sent, listener.times, strict=True))
    assert all(later - sooner >= FRAME_S * 0.8 - EARLY for sooner, later in itertools.pairwise(listener.times))


def test_audio_sent_all_at_once_is_spoken_frame_by_frame() -> None:
    async def scenario() -> Listener:
        provider = backend(delay_ms=100)
        session = await provider.open(request())
        listener = Listener(provider, session)
        await provider.send(session, b"".join(frame(number) for number in range(50)))
        await asyncio.sleep(3)
        await provider.close(session)
        await listener.task
        return listener

    listener = virtual_clock.run(scenario())
    assert listener.frames == [frame(number) for number in range(50)]
    assert abs(listener.times[0] - 0.1) < EARLY
    intervals = [later - sooner for sooner, later in itertools.pairwise(listener.times)]
    assert min(intervals) >= FRAME_S * 0.8 - EARLY
    assert max(intervals) <= FRAME_S + EARLY
    assert listener.times[-1] - listener.times[0] >= 49 * FRAME_S * 0.8


def test_a_pause_stays_a_pause_and_no_silence_is_made_up() -> None:
    async def scenario() -> Listener:
        provider = backend(delay_ms=200)
        session = await provider.open(request())
        listener = Listener(provider, session)
        await provider.send(session, frame(1))
        await asyncio.sleep(5)
        await provider.send(session, frame(2))
        await asyncio.sleep(5)
        await provider.close(session)
        await listener.task
        return listener

    listener = virtual_clock.run(scenario())
    assert listener.frames == [frame(1), frame(2)]
    assert abs(listener.times[0] - 0.2) < EARLY
    assert abs(listener.times[1] - 5.2) < EARLY


def test_one_hiccup_of_the_sender_does_not_delay_the_rest_of_the_call() -> None:
    async def scenario() -> tuple[list[float], Listener]:
        provider = backend(delay_ms=200)
        session = await provider.open(request())
        listener = Listener(provider, session)
        sent = []
        for number in range(500):
            # From 1 s on, 25 frames are held back on their way and arrive together.
            if not 50 <= number < 75:
                await asyncio.sleep(FRAME_S)
            elif number == 50:
                await asyncio.sleep(25 * FRAME_S)
            sent.append(virtual_clock.running_loop().time())
            await provider.send(session, frame(number))
        await asyncio.sleep(1)
        await provider.close(session)
        await listener.task
        return sent, listener

    sent, listener = virtual_clock.run(scenario())
    assert listener.frames == [frame(number) for number in range(500)]
    lateness = [out - into - 0.2 for into, out in zip(sent, listener.times, strict=True)]
    assert max(lateness) > 0.2
    assert max(lateness[-250:]) <= 0.04 + EARLY


def test_opus_packets_are_passed_through_one_by_one() -> None:
    async def scenario() -> Listener:
        provider = backend()
        opus = next(audio for audio in provider.capabilities.audio if audio.encoding == "opus")
        session = await provider.open(request(audio=opus))
        listener = Listener(provider, session)
        for packet in (b"a" * 3, b"b" * 1_275, b"c"):
            await provider.send(session, packet)
        await asyncio.sleep(1)
        await provider.close(session)
        await listener.task
        return listener

    assert virtual_clock.run(scenario()).frames == [b"a" * 3, b"b" * 1_275, b"c"]


@pytest.mark.parametrize("sample_rate", [16_000, 24_000])
def test_the_announced_audio_is_the_configured_one_whatever_else_was_wanted(sample_rate: int) -> None:
    async def scenario() -> None:
        other = backend(sample_rate=40_000 - sample_rate).capabilities.audio[0]
        session = await backend(sample_rate=sample_rate).open(request(audio=other))
        assert session.audio is not None
        assert session.audio.sample_rate == sample_rate
        assert session.audio.frame_bytes == sample_rate // 25

    virtual_clock.run(scenario())


def test_two_sessions_do_not_hear_each_other() -> None:
    async def scenario() -> tuple[Listener, Listener]:
        provider = backend()
        one, two = [await provider.open(request()) for _ in range(2)]
        listeners = Listener(provider, one), Listener(provider, two)
        for number in range(10):
            await provider.send(one, frame(number))
            await provider.send(two, frame(100 + number))
        await asyncio.sleep(2)
        await provider.aclose()
        await asyncio.gather(*(listener.task for listener in listeners))
        return listeners

    one, two = virtual_clock.run(scenario())
    assert one.frames == [frame(number) for number in range(10)]
    assert two.frames == [frame(100 + number) for number in range(10)]
