"""Audio between one client and its provider: two bounded queues, and nothing else on the way.

Owns: the queues, their bounds, the tasks that empty them, and when audio was last heard in either direction.
Refuses: the database, the channel layer, JSON, and waiting for a slow side: what does not fit pushes out the oldest, which is counted.
Limits: a queue holds whole messages; it is bounded in messages and in bytes.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from sessions_app.domain.states import Reason
from sessions_app.providers.base import Provider, ProviderSession
from sessions_app.providers.exceptions import ProviderError

logger = logging.getLogger(__name__)

# To the backend: 2 s of 20 ms frames. Older speech is better lost than late.
UPLINK_FRAMES: Final = 100
UPLINK_BYTES: Final = 128 * 1024
# To the client: backends speak ahead of time, so one burst of an answer must fit.
DOWNLINK_FRAMES: Final = 250
DOWNLINK_BYTES: Final = 256 * 1024


class FrameQueue:
    """A queue that never makes its writer wait: the oldest is dropped for the newest.

    Attributes:
        dropped: Messages that were pushed out.
        on_put: Called after each ``put``; it wakes the reader.
    """

    __slots__ = ("_bytes", "_frames", "_max_bytes", "_max_frames", "dropped", "on_put")

    def __init__(self, *, max_frames: int, max_bytes: int) -> None:
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self.dropped = 0
        self.on_put: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: bytes) -> None:
        """Append; the newest stays even where it alone is above the bound."""
        frames = self._frames
        frames.append(frame)
        self._bytes += len(frame)
        while (len(frames) > self._max_frames or self._bytes > self._max_bytes) and len(frames) > 1:
            self._bytes -= len(frames.popleft())
            self.dropped += 1
        if self.on_put is not None:
            self.on_put()

    def pop(self) -> bytes | None:
        """Return the oldest, None where there is none."""
        if not self._frames:
            return None
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        return frame

    def clear(self) -> None:
        """Forget what is queued; it is not counted as dropped."""
        self._frames.clear()
        self._bytes = 0


class Relay:
    """Carries one session's audio from ``start`` to ``stop``.

    Args:
        provider: Whose ``send`` and ``receive`` are used.
        session: The provider's side, open.
        on_end: Called at most once, when the provider hangs up or fails: the reason, and a detail without secrets.

    Attributes:
        uplink: Audio to the provider.
        downlink: Audio to the client; read by whichever connection is attached.
        heard_at: Loop time of the last audio in either direction, in seconds.
    """

    __slots__ = ("_more", "_on_end", "_provider", "_session", "_tasks", "_time", "downlink", "heard_at", "uplink")

    def __init__(self, provider: Provider, session: ProviderSession, *, on_end: Callable[[Reason, str], None]) -> None:
        self.uplink = FrameQueue(max_frames=UPLINK_FRAMES, max_bytes=UPLINK_BYTES)
        self.downlink = FrameQueue(max_frames=DOWNLINK_FRAMES, max_bytes=DOWNLINK_BYTES)
        self._provider = provider
        self._session = session
        self._on_end: Callable[[Reason, str], None] | None = on_end
        self._time = asyncio.get_running_loop().time
        self._more = asyncio.Event()
        self.uplink.on_put = self._more.set
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self.heard_at = self._time()

    def start(self) -> None:
        """Begin to carry audio."""
        self._tasks = tuple(asyncio.create_task(self._guard(each)) for each in (self._send, self._receive))

    def take(self, frame: bytes) -> None:
        """Take audio from the client; never waits."""
        self.heard_at = self._time()
        self.uplink.put(frame)

    async def stop(self) -> None:
        """Stop carrying; the provider stays open."""
        self._on_end = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.uplink.clear()

    async def _send(self) -> None:
        queue, more, send, session = self.uplink, self._more, self._provider.send, self._session
        while True:
            frame = queue.pop()
            if frame is None:
                more.clear()
                await more.wait()
            else:
                await send(session, frame)

    async def _receive(self) -> None:
        queue = self.downlink
        async for said in self._provider.receive(self._session):
            if isinstance(said, bytes):
                self.heard_at = self._time()
                queue.put(said)
        self._end(Reason.PROVIDER_ENDED, "")

    async def _guard(self, carry: Callable[[], Awaitable[None]]) -> None:
        try:
            await carry()
        except ProviderError as error:
            self._end(reason_of(error, otherwise=Reason.PROVIDER_FAILED), str(error))
        except Exception as error:
            # Not the provider's own error tree: a defect of the provider's, which costs this session and no other.
            logger.exception("provider raised an unexpected error", extra={"session": str(self._session.session_id)})
            self._end(Reason.PROVIDER_FAILED, f"unexpected {type(error).__name__}")

    def _end(self, reason: Reason, detail: str) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(reason, detail)


_FAILURES: Final = frozenset({Reason.CONNECTION_FAILED, Reason.TIMEOUT, Reason.PROVIDER_FAILED, Reason.PIPELINE_ERROR, Reason.AGENT_ABSENT})


def reason_of(error: ProviderError, *, otherwise: Reason) -> Reason:
    """Return the reason that a session with a slot ends for, ``otherwise`` where the error's own code is only for refusals."""
    return Reason(error.code) if error.code in _FAILURES else otherwise
