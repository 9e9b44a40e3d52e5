"""Those who ask the same thing at once share an answer, and none is older than its question."""

import asyncio

import pytest

from sessions_app.runtime.together import Together


class Slow:
    """Answers when it is let, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.value = 0
        self.let: asyncio.Queue[None] = asyncio.Queue()
        self.together: Together[str, int] = Together(self.answer)

    async def answer(self, question: str) -> int:
        self.asked += 1
        found = self.value
        await self.let.get()
        if question == "bad":
            raise LookupError(question)
        return found


async def turns() -> None:
    """Let everything that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_fifty_who_ask_at_once_cost_two_questions() -> None:
    slow = Slow()
    asking = [asyncio.ensure_future(slow.together.ask("a")) for _ in range(50)]
    for _ in range(2):
        await turns()
        slow.let.put_nowait(None)
    assert await asyncio.gather(*asking) == [0] * 50
    assert slow.asked == 2


async def test_who_asks_after_a_change_hears_of_it_though_an_older_question_is_under_way() -> None:
    slow = Slow()
    first = asyncio.ensure_future(slow.together.ask("a"))
    await turns()
    slow.value = 1
    second = asyncio.ensure_future(slow.together.ask("a"))
    await turns()
    for _ in range(2):
        slow.let.put_nowait(None)
    assert (await first, await second) == (0, 1)


async def test_different_questions_do_not_wait_for_each_other() -> None:
    slow = Slow()
    asking = [asyncio.ensure_future(slow.together.ask(question)) for question in "ab"]
    await turns()
    assert slow.asked == 2
    for _ in asking:
        slow.let.put_nowait(None)
    await asyncio.gather(*asking)


async def test_a_failure_is_told_to_all_and_asked_again_by_the_next() -> None:
    slow = Slow()
    asking = [asyncio.ensure_future(slow.together.ask("bad")) for _ in range(3)]
    await turns()
    for _ in range(2):
        slow.let.put_nowait(None)
    assert [type(each) for each in await asyncio.gather(*asking, return_exceptions=True)] == [LookupError] * 3
    slow.let.put_nowait(None)
    with pytest.raises(LookupError):
        await slow.together.ask("bad")


async def test_who_gives_up_leaves_the_question_to_the_others() -> None:
    slow = Slow()
    one, other = (asyncio.ensure_future(slow.together.ask("a")) for _ in range(2))
    await turns()
    one.cancel()
    for _ in range(2):
        slow.let.put_nowait(None)
    assert await other == 0
    assert one.cancelled()
