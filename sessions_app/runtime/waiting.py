"""One session's time in the queue, as its runner sees it: its place, its longest wait, and the promotion that ends it.

Owns: what the client is told of its place: at each change of it, at most once in ``PUSH_S``. Refuses: deciding who is next, which is
the ledger's.
"""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

from sessions_app.domain.operations import Admitted
from sessions_app.runtime.attachment import Attachment, Queued

PUSH_S: Final = 0.95  # between two words to one client; looks come once a second, a little early is not too often


class Waiting:
    """Made when the ledger has the session in its queue.

    Args:
        session_id: Whose.
        longest_s: How long it may still wait, in seconds; None: for ever.
        on_timeout: Called when that time is over.

    Attributes:
        promoted: Done with the ledger's answer once there is a slot.
    """

    def __init__(self, *, session_id: UUID, longest_s: float | None, on_timeout: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.promoted: asyncio.Future[Admitted] = loop.create_future()
        self._session_id = session_id
        self._time = loop.time
        self._ends_at = None if longest_s is None else loop.time() + max(0.0, longest_s)
        self._timer = None if self._ends_at is None else loop.call_at(self._ends_at, on_timeout)
        self._position = self._told = 0
        self._told_at = -PUSH_S  # the clock of a loop may begin at zero
        self._estimate_s: float | None = None

    def promote(self, admitted: Admitted) -> None:
        """There is a slot."""
        if not self.promoted.done():
            self.promoted.set_result(admitted)

    def close(self) -> None:
        """The wait is over, one way or another."""
        if self._timer is not None:
            self._timer.cancel()

    def place(self, position: int, estimate_s: float | None, *, tell: Attachment | None, connection: int) -> None:
        """Note the place; its client is told where it has changed, by this look or by one soon."""
        self._position, self._estimate_s = position, estimate_s
        if position != self._told and tell is not None and self._time() >= self._told_at + PUSH_S:
            self.tell(tell, connection)

    def tell(self, attachment: Attachment, connection: int) -> None:
        """Tell a client its place, once there is one to tell."""
        if self._position and not self.promoted.done():
            self._told, self._told_at = self._position, self._time()
            left_s = None if self._ends_at is None else max(0.0, self._ends_at - self._time())
            attachment.tell(Queued(self._session_id, self._position, self._estimate_s, left_s, connection))
