"""One caller's audio, given back after a delay, at the pace of speech.

Owns: the queue, its bound, and when each frame is due. A frame goes out ``delay`` after it came in, and not before the one ahead of it
has been spoken: audio that comes in bunches goes out evenly, a pause stays a pause, no silence is made up. After a bunch it is behind;
more than ``HURRY_AFTER_S`` behind it speaks a little faster until it is not, so that one hiccup does not delay the rest of the call.
Limits: of audio sent far ahead of real time the oldest is dropped (``MAX_AHEAD_S``), as is what a slow reader left lying
(``CATCH_UP_S``); both are counted. Not for use from several threads.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from sessions_app.providers.base import AudioFormat
from sessions_app.providers.exceptions import ProviderError

MAX_AHEAD_S = 3.0  # more than the longest message (64 KiB at 16 kHz are 2 s), so that one message alone loses nothing
CATCH_UP_S = 0.5  # what a reader that was kept away is given at once, at most
HURRY_AFTER_S = 0.005
HURRY_PACE = 0.8  # of a frame's length between two frames while behind
TIMER_RESOLUTION_S = 0.001  # uvloop's timers count in milliseconds and may be that much early


class Echo:
    """The stream of one session: ``put`` on one side, ``async for`` on the other."""

    __slots__ = (
        "_delay_s",
        "_error",
        "_frame_bytes",
        "_frame_s",
        "_hung",
        "_last_due",
        "_loop",
        "_now",
        "_over",
        "_queue",
        "_timers",
        "_waiter",
        "dropped",
    )

    def __init__(self, audio: AudioFormat, *, delay_s: float) -> None:
        self.dropped = 0  # frames
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._delay_s = delay_s
        self._frame_s = audio.frame_ms / 1000
        self._frame_bytes = audio.frame_bytes
        # Each with the earliest time that it may go out; when it really is due is decided at the head, so that a dropped frame leaves no
        # hole.
        self._queue: deque[tuple[float, bytes]] = deque(maxlen=round((delay_s + MAX_AHEAD_S) / self._frame_s))
        self._last_due = float("-inf")
        self._waiter: asyncio.Future[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._hung = False
        self._over = False
        self._error: ProviderError | None = None

    def put(self, audio: bytes) -> None:
        """Take one or more frames; what comes after the end is dropped.

        Raises:
            ProviderError: The one that the stream died of.
        """
        if self._over:
            if self._error is not None:
                # Without its traceback, which would grow by each frame that is sent to a dead stream.
                raise self._error.with_traceback(None)
            return
        if self._hung or not audio:
            return
        earliest = self._now() + self._delay_s
        size = self._frame_bytes
        if len(audio) <= size or not size:
            self._append(earliest, audio)
            return
        for start in range(0, len(audio), size):
            self._append(earliest, audio[start : start + size])

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` then, unless the stream is over by that time."""
        self._timers.append(self._loop.call_later(seconds, callback))

    def hang(self) -> None:
        """Answer nothing from now on, but stay open."""
        self._hung = True
        self._queue.clear()

    def finish(self, error: ProviderError | None = None) -> None:
        """End the stream for its reader, normally or with ``error``; the first call counts."""
        if self._over:
            return
        self._over = True
        self._error = error
        self._queue.clear()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._waiter is not None:
            raise RuntimeError("This session is being read already.")
        while not self._over:
            due = self._head_due()
            if due is not None:
                overdue = self._now() - due
                if overdue >= -TIMER_RESOLUTION_S:
                    frame = self._queue.popleft()[1]
                    self._last_due = due
                    if overdue <= CATCH_UP_S:
                        return frame
                    self.dropped += 1
                    continue
            await self._wait(due)
        if self._error is not None:
            raise self._error.with_traceback(None)
        raise StopAsyncIteration

    def _append(self, earliest: float, frame: bytes) -> None:
        queue = self._queue
        if len(queue) == queue.maxlen:
            self.dropped += 1
        queue.append((earliest, frame))
        if len(queue) == 1:
            # Otherwise the reader waits for the head's time, which this frame does not change.
            self._wake()

    def _head_due(self) -> float | None:
        if not self._queue:
            return None
        earliest = self._queue[0][0]
        spoken = self._last_due + self._frame_s
        if spoken - earliest > HURRY_AFTER_S:
            spoken = self._last_due + self._frame_s * HURRY_PACE
        return max(earliest, spoken)

    async def _wait(self, until: float | None) -> None:
        waiter = self._waiter = self._loop.create_future()
        timer = None if until is None else self._loop.call_at(until, self._wake)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
