"""One piece of work for many who ask different things at once: what is asked for while a call is under way makes up the next one.

So a lone asker waits for nobody, and a stampede costs a few round trips instead of one each. Refuses: order between askers, retries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Gathering(Generic[Q, A]):
    """To be used from one event loop at a time.

    Args:
        work: Answers questions, in their order; what it raises every asker of that call gets.
        most: Questions in one call at most.
    """

    def __init__(self, work: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], *, most: int) -> None:
        self._work = work
        self._most = most
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._running: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, question: Q) -> A:
        """Return the answer, which is not older than the question."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # the one before has ended, and whatever was asked on it
            self._loop, self._waiting, self._running = loop, [], None
        answer: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, answer))
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                answers = await self._work([question for question, _ in batch])
            except Exception as error:  # noqa: BLE001 - it is raised where it was asked
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), found in zip(batch, answers, strict=True):
                if not answer.done():
                    answer.set_result(found)
