"""What the ledger knows of a session's client: whether one is there, on which node, by which connection.

Owns: the numbers of connections in this process, and telling the ledger until it knows what is so now: one operation at a time, again
after each failure, so that a client that comes and goes leaves the ledger right.
Refuses: timers and words; those are the session's runner's.
"""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol, overload
from uuid import UUID

from sessions_app.domain.operations import Admit, Admitted, Adopt, Confirm, Move, Promote, Resume, Resumed, Step, Suspend
from sessions_app.runtime.room_rounds import RoomRounds
from sessions_app.services.exceptions import VoiceError

RETRY_S: Final = 1.0  # between two tries to tell the ledger that a client came or went


class Submits(Protocol):
    """What hands operations to the ledger; raises ``VoiceError`` where it cannot be asked."""

    @overload
    async def submit(self, operation: Admit | Move) -> Admitted: ...
    @overload
    async def submit(self, operation: Resume) -> Resumed: ...
    @overload
    async def submit(self, operation: Step | Promote) -> bool: ...


class Home(Protocol):
    """The process that runs sessions, as far as they need it."""

    @property
    def id(self) -> UUID:
        """The node's id."""

    @property
    def draining(self) -> bool:
        """Whether it takes no new sessions."""

    @property
    def batcher(self) -> Submits:
        """The way to the ledger."""

    @property
    def rooms(self) -> RoomRounds:
        """What looks after the rooms of sessions."""

    def look_now(self) -> None:
        """Find out soon what became of the sessions."""


@dataclass(frozen=True, slots=True)
class Back:
    """A client that came back with a resume token: its connection's number, the oldest good token's, how long it was away.

    ``told`` is False where the ledger, being away, could not give the number: then it follows the one before, and the ledger is told later.
    """

    connection: int
    floor: int
    gap_ms: int
    told: bool = True

    @classmethod
    def unknown(cls) -> "Back":
        """Nobody could be asked."""
        return cls(0, 0, 0, told=False)


class Presence:
    """One session's; to be used from one event loop. ``begin`` when the ledger has it active, ``stop`` when it is over.

    Attributes:
        connection: The number of the newest connection.
        floor: The number of the oldest resume token that is good.
        node_id: The node's present id.
    """

    def __init__(self, *, home: Home, session_id: UUID) -> None:
        self.connection = self.floor = 1
        self.node_id = home.id
        self._home = home
        self._session_id = session_id
        self._was = home.id  # the id that the ledger knows this process by
        self._present = True
        self._written: bool | None = True  # what the ledger knows; None: something else than what is so
        self._begun = self._stopped = False
        self._expected = 0  # connections that are being taken up: their own answer says that the client is here
        self._telling: asyncio.Task[None] | None = None
        self._confirming: asyncio.Task[None] | None = None

    def would_take(self, shown: int | None) -> bool:
        """Whether this number is a good resume token's, as far as this process knows."""
        return self._begun and shown is not None and self.floor <= shown <= self.connection

    def taken_over(self, resumed: Resumed) -> None:
        """Begin with the numbers that the ledger gave when it gave the session to this process."""
        self.connection, self.floor = resumed.generation, resumed.floor

    def begin(self) -> None:
        """Tell the ledger from now on."""
        self._begun = True
        self._tell()

    def pause(self) -> None:
        """Tell it nothing until the next ``begin``: the session is being opened, and cannot be suspended."""
        self._begun = False
        self._written = True

    def stop(self) -> None:
        """Tell it nothing more."""
        self._stopped = True
        for task in (self._telling, self._confirming):
            if task is not None:
                task.cancel()

    def came(self, back: Back | None) -> None:
        """A connection is there: number it, by the ledger or, where that was not asked, here."""
        self._present = True
        if back is not None and back.told:
            self.connection, self.floor = back.connection, back.floor
            self._written = True
        elif self._begun:
            self.floor, self.connection = self.connection, self.connection + 1
            self._written = None
        self._tell()

    @property
    def expected(self) -> bool:
        """Whether a connection is being taken up."""
        return self._expected > 0

    def expect(self, change: int) -> None:
        """A connection is about to come (1), or has come or not (-1): until then the ledger is not told that the one before went.

        Told later than of the new one, it would take the client for gone that has just come back.
        """
        self._expected += change
        self._tell()

    def went(self) -> None:
        """No connection is there any more."""
        self._present = False
        self._tell()

    def moved(self, node_id: UUID, *, was: UUID) -> None:
        """The node has a new id; the ledger has taken a client that is here for gone."""
        self.node_id = node_id
        if self._begun and self._present:
            self._was, self._written = was, None
            self._tell()

    def confirm(self) -> None:
        """The newest connection has sent a frame: the resume tokens of those before are good no more."""
        if self.floor < self.connection and not self._stopped and (self._confirming is None or self._confirming.done()):
            self._confirming = asyncio.get_running_loop().create_task(self._keep_confirming())

    def _tell(self) -> None:
        if self._begun and not self._stopped and not self._expected and (self._telling is None or self._telling.done()):
            self._telling = asyncio.get_running_loop().create_task(self._keep_telling())

    async def _keep_telling(self) -> None:
        while self._begun and not self._expected and self._written != self._present:
            present, node_id = self._present, self.node_id
            came = Adopt(self._session_id, node_id, self._was, self.connection)
            try:
                ours = await self._home.batcher.submit(came if present else Suspend(self._session_id, node_id))
            except VoiceError:
                await asyncio.sleep(RETRY_S)
                continue
            if ours and present:
                self._was = node_id
            elif not ours:
                # It has ended, or another node has it, or (a suspension) it waits already: the database knows which.
                self._home.look_now()
            self._written = present

    async def _keep_confirming(self) -> None:
        while self.floor < self.connection:
            connection = self.connection
            try:
                await self._home.batcher.submit(Confirm(self._session_id, self.node_id, connection))
            except VoiceError:
                await asyncio.sleep(RETRY_S)
            else:
                self.floor = max(self.floor, connection)
