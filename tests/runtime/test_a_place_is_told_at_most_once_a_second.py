"""Who waits is told of each change, but no two words within a second; what came too soon is told when the second is over."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from sessions_app.runtime.attachment import Attachment, Queued
from sessions_app.runtime.waiting import Waiting
from tests.providers import virtual_clock

SECOND_S = 1.0


class Queue:
    """One who waits, whose words are kept with the time at which they came."""

    def __init__(self, *, longest_s: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self.expired_at: list[float] = []
        self.waiting = Waiting(
            session_id=uuid4(), waited_s=0.0, longest_s=longest_s, on_timeout=lambda: self.expired_at.append(self._loop.time())
        )
        self.heard: list[tuple[float, int, float | None]] = []
        self.attachment, self._task = self.connect()

    def connect(self) -> "tuple[Attachment, asyncio.Task[None]]":
        attachment = Attachment()
        return attachment, self._loop.create_task(self._listen(attachment))

    async def _listen(self, attachment: Attachment) -> None:
        while True:
            word = await attachment.next()
            assert isinstance(word, Queued)
            self.heard.append((round(self._loop.time(), 3), word.position, word.expires_in_s))

    def place(self, position: int) -> None:
        self.waiting.place(position, None, tell=self.attachment, connection=1)

    async def at(self, time_s: float) -> None:
        await asyncio.sleep(time_s - self._loop.time())

    @property
    def told(self) -> list[tuple[float, int]]:
        return [(time_s, position) for time_s, position, _ in self.heard]


def run(scenario: Callable[[Queue], Coroutine[Any, Any, None]], **options: Any) -> Queue:
    async def whole() -> Queue:
        queue = Queue(**options)
        await scenario(queue)
        queue.waiting.close()
        return queue

    return virtual_clock.run(whole())


def test_a_change_is_told() -> None:
    async def scenario(queue: Queue) -> None:
        for second, position in enumerate((3, 3, 2, 2, 1)):
            await queue.at(second * 1.001)
            queue.place(position)
        await queue.at(9)

    assert run(scenario).told == [(0.0, 3), (2.002, 2), (4.004, 1)]


def test_two_changes_within_a_second_are_one_word_with_the_newest_place() -> None:
    async def scenario(queue: Queue) -> None:
        for time_s, position in ((0.0, 9), (0.2, 8), (0.7, 6)):
            await queue.at(time_s)
            queue.place(position)
        await queue.at(9)

    assert run(scenario).told == [(0.0, 9), (1.0, 6)]


def test_a_change_that_was_taken_back_is_not_told() -> None:
    async def scenario(queue: Queue) -> None:
        for time_s, position in ((0.0, 1), (0.2, 2), (0.7, 1)):
            await queue.at(time_s)
            queue.place(position)
        await queue.at(9)

    assert run(scenario).told == [(0.0, 1)]


@pytest.mark.parametrize("every_s", [0.03, 0.1, 0.96, 0.999, 1.0, 1.003, 2.5])
def test_no_two_words_come_within_a_second_however_often_it_is_looked(every_s: float) -> None:
    async def scenario(queue: Queue) -> None:
        for number in range(100):
            await queue.at(number * every_s)
            queue.place(100 - number)
        await queue.at(99 * every_s + 2)

    told = run(scenario).told
    assert all(later - earlier >= SECOND_S for (earlier, _), (later, _) in pairwise(told))
    assert max(later - earlier for (earlier, _), (later, _) in pairwise(told)) <= max(SECOND_S, every_s) + 0.001
    assert told[-1][1] == 1


def test_a_new_connection_is_answered_at_once_and_the_word_for_the_one_before_is_dropped() -> None:
    async def scenario(queue: Queue) -> None:
        queue.place(3)
        await queue.at(0.5)
        queue.place(2)
        queue.attachment, other = queue.connect()
        queue.waiting.tell(queue.attachment, 2)
        await queue.at(0.6)
        queue.place(1)
        await queue.at(9)
        other.cancel()

    assert run(scenario).told == [(0.0, 3), (0.5, 2), (1.5, 1)]


def test_nothing_is_told_when_the_wait_is_over() -> None:
    async def scenario(queue: Queue) -> None:
        queue.place(3)
        await queue.at(0.5)
        queue.place(2)
        queue.waiting.close()
        await queue.at(9)

    assert run(scenario).told == [(0.0, 3)]


def test_a_raised_limit_is_told_and_keeps_who_waits() -> None:
    async def scenario(queue: Queue) -> None:
        queue.place(1)
        await queue.at(4)
        queue.waiting.limit(60)
        queue.place(1)
        await queue.at(59)
        assert queue.expired_at == []
        await queue.at(61)

    queue = run(scenario, longest_s=5)
    assert queue.heard == [(0.0, 1, 5.0), (4.0, 1, 56.0)]
    assert queue.expired_at == [60.0]


@pytest.mark.parametrize(("limit_s", "over_at"), [(30, 30.0), (10, 20.0), (None, None)])
def test_a_changed_limit_counts_from_when_the_wait_began(limit_s: int | None, over_at: float | None) -> None:
    async def scenario(queue: Queue) -> None:
        queue.place(1)
        await queue.at(20)
        queue.waiting.limit(limit_s)
        queue.place(1)
        await queue.at(99)

    queue = run(scenario, longest_s=60)
    assert queue.expired_at == ([] if over_at is None else [over_at])
    assert queue.heard == [(0.0, 1, 60.0), (20.0, 1, None if limit_s is None else max(0.0, limit_s - 20.0))]
