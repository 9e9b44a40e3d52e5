"""What one connection sends is parsed a little at a time, in order and whole, and others are heard in between."""

import asyncio
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voiceplatform import fairness
from voiceplatform.fairness import AUDIO_BYTES, MAX_BUSY, PIECE_BYTES, SLICE_S, SPEECH_BYTES, Door, Line, Turns

COSTLY_S = SLICE_S / 4  # of processor time, for each piece of a flood
FLOOD = bytes(range(256)) * (PIECE_BYTES * 40 // 256)


class Connection:
    """Keeps what was parsed of it; each piece may cost something."""

    def __init__(self, line: Line, cost_s: float = 0.0) -> None:
        self.parsed = bytearray()
        self.reading = True
        self.held = 0
        self._cost_s = cost_s
        self.turns = Turns(line, parse=self._parse, hold=self._hold, read_on=self._read_on)

    def _parse(self, data: bytes) -> None:
        until = time.thread_time() + self._cost_s
        while time.thread_time() < until:
            pass
        self.parsed += data

    def _hold(self) -> None:
        self.reading = False
        self.held += 1

    def _read_on(self) -> None:
        self.reading = True


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - turns of the loop are what it waits for
            await asyncio.sleep(0.001)


async def test_a_flood_is_parsed_whole_and_in_order_and_not_read_meanwhile() -> None:
    flood = Connection(Line(rest=1), COSTLY_S)
    flood.turns.take(FLOOD)
    assert len(flood.parsed) < len(FLOOD)
    assert not flood.reading
    await until(lambda: flood.reading)
    assert bytes(flood.parsed) == FLOOD
    assert not flood.turns.waiting


async def test_who_sends_little_is_heard_at_once_while_a_flood_waits() -> None:
    line = Line(rest=1)
    flood, talker = Connection(line, COSTLY_S), Connection(line)
    flood.turns.take(FLOOD)
    for _ in range(20):
        talker.turns.take(b"frame")
        await asyncio.sleep(0)
    assert bytes(talker.parsed) == b"frame" * 20
    assert talker.held == 0
    assert not flood.reading


async def test_two_floods_take_turns() -> None:
    line = Line(rest=1)
    first, second = Connection(line, COSTLY_S), Connection(line, COSTLY_S)
    first.turns.take(FLOOD)
    second.turns.take(FLOOD)
    await until(lambda: len(second.parsed) > len(FLOOD) / 2)
    assert len(first.parsed) > len(FLOOD) / 4
    await until(lambda: first.reading and second.reading)
    assert bytes(first.parsed) == bytes(second.parsed) == FLOOD


async def test_who_sends_no_more_than_speech_goes_before_floods() -> None:
    line = Line(rest=0)
    floods = [Connection(line, COSTLY_S) for _ in range(5)]
    for each in floods:
        each.turns.take(FLOOD + bytes(SPEECH_BYTES))
    slow_talker = Connection(line, COSTLY_S)
    slow_talker.turns.take(bytes(PIECE_BYTES) * 20)
    assert slow_talker.turns.waiting
    await until(lambda: not slow_talker.turns.waiting)
    assert all(each.turns.waiting for each in floods)


async def test_a_connection_that_is_over_is_parsed_no_further() -> None:
    flood = Connection(Line(rest=1), COSTLY_S)
    flood.turns.take(FLOOD)
    seen = len(flood.parsed)
    flood.turns.end()
    await until(lambda: not flood.turns.waiting)
    assert len(flood.parsed) == seen


async def test_handshakes_are_let_in_in_order_a_slice_at_a_time() -> None:
    line = Line(rest=1)
    entered: list[bytes] = []

    def enter(data: bytes) -> None:
        until_s = time.thread_time() + COSTLY_S
        while time.thread_time() < until_s:
            pass
        entered.append(data)

    doors = [Door(line, enter=enter, hold=lambda: None, read_on=lambda: None) for _ in range(40)]
    for number, door in enumerate(doors):
        door.take(b"GET /%d" % number)
    assert len(entered) < len(doors)
    doors[-1].take(b" HTTP/1.1")
    await until(lambda: len(entered) == len(doors))
    assert entered == [b"GET /%d" % number for number in range(39)] + [b"GET /39 HTTP/1.1"]


class Clock:
    """Stands still; nothing but what is let in takes the processor's time, and all of it."""

    def __init__(self) -> None:
        self.busy_s = self.idle_s = 0.0

    def thread_time(self) -> float:
        return self.busy_s

    def monotonic(self) -> float:
        return 1_000.0 + self.busy_s + self.idle_s


@pytest.mark.parametrize("talks", [True, False])
async def test_while_somebody_talks_no_handshake_is_let_in_before_the_loop_was_idle(talks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, entered = Clock(), 0
    monkeypatch.setattr(fairness, "time", clock)
    monkeypatch.setattr(fairness, "_talk", type(fairness._talk)())

    def enter(data: bytes) -> None:
        nonlocal entered
        entered += 1
        clock.busy_s += SLICE_S

    Connection(Line(rest=0)).turns.take(bytes(AUDIO_BYTES if talks else AUDIO_BYTES - 1))
    line = Line(rest=0)
    for _ in range(3):
        Door(line, enter=enter, hold=lambda: None, read_on=lambda: None).take(b"GET /")
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert entered == (1 if talks else 3)
    for expected in (2, 3):
        clock.idle_s += SLICE_S * (1 / MAX_BUSY - 1) + 1e-9
        await until(lambda: entered >= expected)  # noqa: B023 - awaited before it changes
        assert entered == (expected if talks else 3)


@given(st.lists(st.binary(max_size=5000), max_size=20))
def test_whatever_comes_in_whichever_portions_comes_out_the_same(portions: list[bytes]) -> None:
    async def run() -> bytes:
        connection = Connection(Line(rest=1))
        for portion in portions:
            connection.turns.take(portion)
            await asyncio.sleep(0)
        await until(lambda: not connection.turns.waiting)
        return bytes(connection.parsed)

    assert asyncio.run(run()) == b"".join(portions)
