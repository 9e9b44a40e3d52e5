"""How much of the event loop the bytes may take of who is nobody yet, or sends too much: a little at a time, and not all the time.

A WebSocket's frames are parsed in Python, some ten microseconds each, and the smallest has six bytes: what one read of a socket
brings (256 KiB with uvloop) may take the loop for a second, and everybody's audio with it. A handshake takes a millisecond or three,
and they come in crowds. So each connection has a small allowance of processor time; beyond it, and for all handshakes, connections
stand in a line, of which ``SLICE_S`` is served at a time, and then nobody for a multiple of what it took; where somebody talks, not until
the loop has been idle for a while either. Audio at the pace of speech uses nothing of that allowance, however slow the machine is: what it
costs is free by the piece, as long as the bytes are as many as speech has.
Refuses: buffering; a connection is not read while it waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

PIECE_BYTES: Final = 1024  # one frame of 20 ms
SLICE_S: Final = 0.002  # of processor time
PIECE_FREE_S: Final = 0.0003  # of processor time: a frame of audio takes 0.01 to 0.15 ms, as many of the smallest frames as fit 8 ms
SPEECH_BYTES_PER_S: Final = 72_000  # 24 kHz, 16 bit, and half as much again
SPEECH_BYTES: Final = 65_536  # that may be caught up with at once
FREE_SHARE: Final = 0.003  # of the loop, for each connection, beyond speech
FREE_S: Final = 0.005  # of processor time that may be saved up
FIRST_S: Final = 0.001  # what a connection begins with
DOOR_REST: Final = 0.0  # what is let in runs in the meantime
FLOOD_REST: Final = 6.0  # the same of those who send too much
MAX_BUSY: Final = 0.8  # of the loop while somebody talks: the nearer to all of it, the later comes what is due
MAX_REST_S: Final = 0.1  # the line goes on, however busy the loop is
AUDIO_BYTES: Final = 320  # 10 ms at 16 kHz; what is said in words is shorter
TALKS_S: Final = 1.0  # who was heard so long ago still talks


class _Talk:
    """Whether anybody talks to this process."""

    def __init__(self) -> None:
        self._heard_at = float("-inf")

    def heard(self, at: float) -> None:
        self._heard_at = at

    def goes_on(self, now: float) -> bool:
        return now - self._heard_at < TALKS_S


_talk: Final = _Talk()


class _Waiter(Protocol):
    def serve(self, until: float) -> bool: ...


class Line:
    """Who waits for a share of the running loop; of one loop only.

    Args:
        rest: For how many times as long as a slice took nobody is served; while somebody talks, at least until the loop was idle for as
            much of the time as ``MAX_BUSY`` leaves.
    """

    def __init__(self, *, rest: float) -> None:
        self._rest = rest
        self._waiters: deque[_Waiter] = deque()
        self._began = self._began_at = 0.0
        self._resting = False

    def join(self, waiter: _Waiter, *, first: bool = False) -> None:
        """Stand at its end, or before everybody; who comes when nobody waits is served at once."""
        (self._waiters.appendleft if first else self._waiters.append)(waiter)
        if not self._resting:
            self._serve()

    def _serve(self) -> None:
        self._resting = True  # for who joins meanwhile
        began = time.thread_time()
        self._began, self._began_at = began, time.monotonic()
        until = began + SLICE_S
        waiters = self._waiters
        while waiters and time.thread_time() < until:
            waiter = waiters.popleft()
            if waiter.serve(until):
                waiters.append(waiter)
        asyncio.get_running_loop().call_later((time.thread_time() - began) * self._rest, self._wake)

    def _wake(self) -> None:
        now = time.monotonic()
        busy_s = time.thread_time() - self._began
        more_s = min(busy_s / MAX_BUSY, MAX_REST_S) - (now - self._began_at)
        if more_s > 0 and _talk.goes_on(now):
            asyncio.get_running_loop().call_later(more_s, self._wake)
            return
        self._resting = False
        if self._waiters:
            self._serve()


class Turns:
    """Feeds one connection's bytes to its parser.

    Args:
        line: Where it waits when its allowance is used up.
        parse: Takes bytes.
        hold: Stops reading.
        read_on: Reads again.
    """

    __slots__ = ("_free_s", "_held", "_hold", "_left", "_line", "_parse", "_read_on", "_seen", "_speech", "waiting")

    def __init__(self, line: Line, *, parse: Callable[[bytes], None], hold: Callable[[], None], read_on: Callable[[], None]) -> None:
        self._line, self._parse, self._hold, self._read_on = line, parse, hold, read_on
        self._left = bytearray()
        self._held = False
        self._free_s, self._speech, self._seen = FIRST_S, float(SPEECH_BYTES), time.monotonic()
        self.waiting = False

    def take(self, data: bytes) -> None:
        """Parse, or keep for later."""
        self._left += data
        if self.waiting:
            return
        now = time.monotonic()
        if len(data) >= AUDIO_BYTES:
            _talk.heard(now)
        past_s, self._seen = now - self._seen, now
        self._free_s = min(FREE_S, self._free_s + past_s * FREE_SHARE)
        self._speech = min(SPEECH_BYTES, self._speech + past_s * SPEECH_BYTES_PER_S)
        self._go_freely()
        if self._left:
            self.waiting = True
            # Who takes too long with no more than speech has (a slow machine, or bad faith) does not wait behind those who send too much.
            self._line.join(self, first=self._speech > 0)
            if self.waiting:
                self._held = True
                self._hold()

    def serve(self, until: float) -> bool:
        """Parse until then, in seconds of the thread's processor time; return whether there is more."""
        self._go(until)
        if self._left:
            return True
        self.waiting = False
        if self._held:
            self._held = False
            self._read_on()
        return False

    def end(self) -> None:
        """Forget what is left, and the connection, so that neither keeps the other in memory."""
        self._left.clear()
        self._parse, self._hold, self._read_on = _take_nothing, _do_nothing, _do_nothing

    def _go_freely(self) -> None:
        """Parse for as long as the allowance lasts, and for ``SLICE_S`` at most."""
        began = time.thread_time()
        until, before = began + SLICE_S, began
        while self._left and self._free_s > 0 and before < until:
            size = self._parse_piece()
            after = time.thread_time()
            took, before = after - before, after
            if self._speech >= size:
                self._speech -= size
                took = max(0.0, took - PIECE_FREE_S)
            self._free_s -= took

    def _go(self, until: float) -> None:
        while self._left:
            self._parse_piece()
            if time.thread_time() >= until:
                return

    def _parse_piece(self) -> int:
        left = self._left
        piece = bytes(left[:PIECE_BYTES])
        del left[:PIECE_BYTES]
        self._parse(piece)
        return len(piece)


class Door:
    """Where a connection's first bytes wait, which are a request or a handshake.

    Args:
        line: For all doors of the process.
        enter: Takes all that has come.
        hold: Stops reading.
        read_on: Reads again.
    """

    __slots__ = ("_enter", "_held", "_hold", "_left", "_line", "_read_on", "_waiting")

    def __init__(self, line: Line, *, enter: Callable[[bytes], None], hold: Callable[[], None], read_on: Callable[[], None]) -> None:
        self._line, self._enter, self._hold, self._read_on = line, enter, hold, read_on
        self._left = bytearray()
        self._waiting = self._held = False

    def take(self, data: bytes) -> None:
        """Let it in, or keep it for later."""
        self._left += data
        if self._waiting:
            return
        self._waiting = True
        self._line.join(self)
        if self._waiting:
            self._held = True
            self._hold()

    def serve(self, until: float) -> bool:
        """Let it in; there is never more."""
        del until
        data = bytes(self._left)
        self._left.clear()
        self._waiting = False
        if self._held:
            self._held = False
            self._read_on()
        self._enter(data)
        return False

    def end(self) -> None:
        """Forget what is left, and the connection, so that neither keeps the other in memory."""
        self._left.clear()
        self._enter, self._hold, self._read_on = _take_nothing, _do_nothing, _do_nothing


def _do_nothing() -> None:
    """Called in place of a connection that is over."""


def _take_nothing(data: bytes) -> None:
    """The same, with what it would have read."""
