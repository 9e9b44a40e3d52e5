"""What a session has to tell the one connection that is attached to it.

Owns: the order of what goes to a client. Words before audio, the last word closes. Refuses: JSON and close codes, which are the
transport's; a backlog: of a client that does not read, words beyond ``MAX_WORDS`` are lost, but never the last one.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from sessions_app.domain.admission import Limit
from sessions_app.domain.operations import Policy
from sessions_app.domain.states import Reason
from sessions_app.providers.base import AudioFormat
from sessions_app.runtime.relay import FrameQueue
from sessions_app.runtime.telemetry import UNTRACED, SessionTrace

MAX_WORDS: Final = 64


@dataclass(frozen=True, slots=True)
class Started:
    """The session has its backend; ``audio`` is None where its media does not pass through the platform: then it is active when its user
    has joined.

    ``connection`` is this connection's number, for its resume token. ``gap_ms`` is how long the client that came back with such a token
    was away; None where it came with its connect token. ``client`` is what it needs to reach its room; holds a token, so not shown.
    """

    session_id: UUID
    backend: str
    pipeline: str
    transport: str
    audio: AudioFormat | None
    policy: Policy
    connection: int = 1
    gap_ms: int | None = None
    client: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Queued:
    """The session waits at this place (1: next). Times are in seconds; None is an unknown wait, and no end of waiting."""

    session_id: UUID
    position: int
    estimated_wait_s: float | None
    expires_in_s: float | None
    connection: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; ``duration_ms`` from active to now."""

    reason: Reason
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """There is no session; ``retry_after_s`` and ``limits`` as the verdict has them."""

    reason: Reason
    retry_after_s: int | None = None
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Replaced:
    """A newer connection of the same session has taken over."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """This process goes down; the session waits for its client on another one."""


@dataclass(frozen=True, slots=True)
class Note:
    """The transport's own words, in their turn among the others. With a ``close`` code they are the last."""

    text: str = ""
    close: int | None = None


Word = Started | Queued | Ended | Rejected | Replaced | Leaving | Note


class Attachment:
    """One connection's end of a session. Made, told and read within one event loop.

    Attributes:
        last_word: Done once something that closes the connection was told.
        gone: Whether the connection is no more; set by the transport.
    """

    __slots__ = ("_audio", "_wake", "_words", "gone", "last_word", "trace")

    def __init__(self, trace: SessionTrace = UNTRACED) -> None:
        self.trace = trace
        self.gone = False
        self._words: deque[Word] = deque()
        self._audio: FrameQueue | None = None
        self._wake = asyncio.Event()
        self.last_word: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def listen(self, audio: FrameQueue | None) -> None:
        """Read audio from this queue from now on; what an earlier connection left in it is stale. None: from no queue."""
        if self._audio is not None:
            self._audio.on_put = None
        self._audio = audio
        if audio is not None:
            audio.clear()
            audio.on_put = self._wake.set

    def tell(self, word: Word) -> None:
        """Queue a word; nothing is heard after the last one."""
        if self.last_word.done():
            return
        if isinstance(word, Ended | Rejected | Replaced | Leaving) or (isinstance(word, Note) and word.close is not None):
            self.last_word.set_result(None)
        elif len(self._words) >= MAX_WORDS:
            return
        self._words.append(word)
        self._wake.set()

    async def next(self) -> Word | bytes:
        """Return the next word, or else the next audio; wait for one. One reader at a time."""
        while True:
            if self._words:
                return self._words.popleft()
            frame = self._audio.pop() if self._audio is not None else None
            if frame is not None:
                return frame
            self._wake.clear()
            await self._wake.wait()
