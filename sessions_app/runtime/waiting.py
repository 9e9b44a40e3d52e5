"""One session's time in the queue, as its runner sees it: its place, its longest wait, and the promotion that ends it.

Owns: what the client is told of its place: each change of it, or of how long it may still wait, and to one connection at most one word in
``PUSH_S``. A change that comes sooner is told when that is over, as it is by then. Refuses: deciding who is next, which is the ledger's.
"""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

from sessions_app.domain.operations import Admitted
from sessions_app.runtime.attachment import Attachment, Queued

PUSH_S: Final = 1.0  # between two words to one connection


class Waiting:
    """Made when the ledger has the session in its queue.

    Args:
        session_id: Whose.
        waited_s: How long it has waited already, in seconds.
        longest_s: How long it may wait in all, in seconds; None: for ever.
        on_timeout: Called when that time is over.

    Attributes:
        promoted: Done with the ledger's answer once there is a slot.
    """

    def __init__(self, *, session_id: UUID, waited_s: float, longest_s: float | None, on_timeout: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.promoted: asyncio.Future[Admitted] = loop.create_future()
        self._session_id = session_id
        self._loop = loop
        self._began = loop.time() - waited_s
        self._on_timeout = on_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._push: asyncio.TimerHandle | None = None
        self._position = 0
        self._estimate_s: float | None = None
        self._told: tuple[int, float | None] | None = None  # the place and the limit that the client knows
        self._told_at = -PUSH_S  # the clock of a loop may begin at zero
        self._closed = False
        self._longest_s: float | None = None
        self.limit(longest_s)

    def limit(self, longest_s: float | None) -> None:
        """Wait for so long in all from now on, counted from when it began: over at once, where that has passed."""
        if self._closed or longest_s == self._longest_s:
            return
        self._longest_s = longest_s
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if longest_s is None else self._loop.call_at(self._began + longest_s, self._on_timeout)

    def promote(self, admitted: Admitted) -> None:
        """There is a slot."""
        if not self.promoted.done():
            self.promoted.set_result(admitted)

    def close(self) -> None:
        """The wait is over, one way or another."""
        self._closed = True
        self._quiet()
        if self._timer is not None:
            self._timer.cancel()

    def place(self, position: int, estimate_s: float | None, *, tell: Attachment | None, connection: int) -> None:
        """Note the place; its client is told where that or the limit has changed, now or as soon as it may be told again."""
        self._position, self._estimate_s = position, estimate_s
        self._quiet()
        if self._closed or tell is None or self._told == (position, self._longest_s):
            return
        next_at = self._told_at + PUSH_S
        if self._loop.time() >= next_at:
            self.tell(tell, connection)
        else:
            # Not at the next look at the queue: looks come about once a second, and one that comes a little early would cost a second more.
            self._push = self._loop.call_at(next_at, self.tell, tell, connection)

    def tell(self, attachment: Attachment, connection: int) -> None:
        """Tell a client its place, once there is one to tell. A connection's first word is its answer, and waits for nothing."""
        if self._position and not self._closed and not self.promoted.done():
            self._quiet()
            self._told, self._told_at = (self._position, self._longest_s), self._loop.time()
            left_s = None if self._longest_s is None else max(0.0, self._began + self._longest_s - self._loop.time())
            attachment.tell(Queued(self._session_id, self._position, self._estimate_s, left_s, connection))

    def _quiet(self) -> None:
        """Forget a word that was held back: it is told with a newer one, or to a newer connection, or is true no more."""
        if self._push is not None:
            self._push.cancel()
            self._push = None
