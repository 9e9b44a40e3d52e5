"""How a web process is stopped: the first signal lets it drain, a second one ends it at once, and ten seconds end it in any case.

Owns: SIGINT and SIGTERM of a process that serves, and the bound on its end. Refuses: knowing what there is to drain.
Limits: a signal that comes before the event loop runs has its default meaning, which is right as long as nobody is served.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

LONGEST_STOP_S: Final = 9.5


class Stop:
    """The wish to stop; made and used on the main thread.

    Args:
        begin: called on the event loop at the first signal.

    Attributes:
        hurried: Whether a second signal has come.
    """

    def __init__(self, begin: Callable[[], object]) -> None:
        self._begin = begin
        self._begun = False
        self._hurry = asyncio.Event()

    @property
    def hurried(self) -> bool:
        """Whether a second signal has come."""
        return self._hurry.is_set()

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)

    async def unless_hurried(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this to its end, or until a second signal comes."""
        task, hurry = asyncio.ensure_future(work), asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({task, hurry}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
            if not task.done():
                task.cancel()
        if task.done():
            await task

    def _on_signal(self) -> None:
        if self._begun:
            self._hurry.set()
            return
        self._begun = True
        # Whatever hangs then, a thread in a query or the end of the interpreter: the kernel ends it. Nothing handles this signal.
        signal.setitimer(signal.ITIMER_REAL, LONGEST_STOP_S)
        self._begin()
