"""Many who ask the same thing at once share one answer, which is never older than their question.

Who asks while the answer to others is on its way waits for the next one, together with all who ask meanwhile: a crowd costs two questions.
Limits: one event loop's; who gives up waiting leaves the question to the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Together(Generic[K, R]):
    """Questions of one kind.

    Args:
        answer: Returns the answer to a question; what it raises is raised to all who have asked.
    """

    def __init__(self, answer: Callable[[K], Awaitable[R]]) -> None:
        self._answer = answer
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Asked[K, R]] = WeakKeyDictionary()

    async def ask(self, question: K) -> R:
        """Return an answer that was looked for after this call."""
        loop = asyncio.get_running_loop()
        asked = self._loops.setdefault(loop, _Asked())
        waiting = asked.waiting.get(question)
        if waiting is None:
            before = asked.running.get(question)
            waiting = loop.create_task(self._find(asked, question, before))
            waiting.add_done_callback(_seen)
            (asked.running if before is None else asked.waiting)[question] = waiting
        return await asyncio.shield(waiting)

    async def _find(self, asked: "_Asked[K, R]", question: K, before: asyncio.Task[R] | None) -> R:
        if before is not None:
            await asyncio.wait({before})
            asked.running[question] = asked.waiting.pop(question)
        me = asked.running[question]
        try:
            return await self._answer(question)
        finally:
            if asked.running.get(question) is me:
                del asked.running[question]


class _Asked(Generic[K, R]):
    """What is under way on one event loop."""

    def __init__(self) -> None:
        self.running: dict[K, asyncio.Task[R]] = {}
        self.waiting: dict[K, asyncio.Task[R]] = {}


def _seen(task: asyncio.Task[R]) -> None:
    """Look at a failure, so that one whom nobody waits for any more is no warning."""
    if not task.cancelled():
        task.exception()
