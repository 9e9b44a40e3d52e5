"""One client process's share of a block: as many waiting clients as it is told, each of which admits, then releases, in a loop.

Owns: the clock. A pair counts where its release was acknowledged within the block, an admission's time where it was answered there;
that time runs from when the client asked, so that waiting for a connection counts. Clients of an asynchronous method are tasks. Those
of a blocking one take turns on its threads, each of which has a connection of its own, in the order in which they asked.
"""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final, Protocol

ZIPF: Final = 1.1  # exponent: the first of a hundred tenants has a fifth of the calls
WARM_S: Final = 0.2  # at a block's start, not counted


@dataclass(frozen=True, slots=True)
class Load:
    """What one process does in one block.

    Attributes:
        waiting: How many clients.
        seconds: Of the block, after the warming up.
        tenants: Ids of those who ask, by zipf where they are many.
        first: The number of the first client; each has a number, and is a user, of its own.
    """

    waiting: int
    seconds: float
    tenants: Sequence[int]
    first: int = 0


@dataclass
class Result:
    """Pairs within the block and how long each of its admissions took, in milliseconds; ``refused`` attempts are neither."""

    pairs: int = 0
    refused: int = 0
    late_ms: list[float] = field(default_factory=list)


class Asynchronous(Protocol):
    """Admits and releases on the event loop. ``admit`` returns what ``release`` takes, None where it was refused."""

    async def admit(self, tenant: int, user: str) -> object | None:
        """Return what ``release`` takes, None where it was refused."""

    async def release(self, slot: object) -> None:
        """Give it back."""


class Blocking(Protocol):
    """The same on one connection, for one thread at a time."""

    def admit(self, tenant: int, user: str) -> object | None:
        """Return what ``release`` takes, None where it was refused."""

    def release(self, slot: object) -> None:
        """Give it back."""


@dataclass
class _Block:
    load: Load
    result: Result = field(default_factory=Result)

    def __post_init__(self) -> None:
        self.begin = time.perf_counter() + WARM_S
        self.end = self.begin + self.load.seconds
        shares = [1 / (rank + 1) ** ZIPF for rank in range(len(self.load.tenants))]
        self.tenants = cycle(random.Random(self.load.first).choices(self.load.tenants, shares, k=10_000))

    @property
    def over(self) -> bool:
        return time.perf_counter() >= self.end

    def answered(self, asked: float) -> None:
        """Note an admission, just answered."""
        now = time.perf_counter()
        if self.begin <= now < self.end:
            self.result.late_ms.append(round((now - asked) * 1000, 3))

    def released(self) -> None:
        """Count a pair, just released."""
        self.result.pairs += self.begin <= time.perf_counter() < self.end


async def run_tasks(method: Asynchronous, load: Load) -> Result:
    """Run a block of an asynchronous method."""
    block = _Block(load)

    async def client(user: str) -> None:
        while not block.over:
            asked = time.perf_counter()
            slot = await method.admit(next(block.tenants), user)
            if slot is None:
                block.result.refused += 1
                continue
            block.answered(asked)
            await method.release(slot)
            block.released()

    await asyncio.gather(*(client(user_of(load.first + i)) for i in range(load.waiting)))
    return block.result


@dataclass
class _Turn:
    user: str
    asked: float
    slot: object | None = None


class _Threads:
    """Clients that take turns on threads."""

    def __init__(self, block: _Block) -> None:
        self.block = block
        self.turns: queue.SimpleQueue[_Turn | None] = queue.SimpleQueue()
        self.errors: list[Exception] = []

    def run(self, methods: Sequence[Blocking]) -> None:
        load = self.block.load
        for i in range(load.waiting):
            self.turns.put(_Turn(user_of(load.first + i), time.perf_counter()))
        threads = [threading.Thread(target=self._work, args=(each,), daemon=True) for each in methods[: load.waiting]]
        for thread in threads:
            thread.start()
        time.sleep(max(0.0, self.block.end - time.perf_counter()))
        for _ in threads:
            self.turns.put(None)
        for thread in threads:
            thread.join()
        while not self.turns.empty():
            left = self.turns.get()
            if left is not None and left.slot is not None:
                methods[0].release(left.slot)
        if self.errors:
            raise self.errors[0]

    def _work(self, method: Blocking) -> None:
        try:
            while (turn := self.turns.get()) is not None:
                self._take(method, turn)
        except Exception as error:  # noqa: BLE001 - raised by ``run``
            self.errors.append(error)

    def _take(self, method: Blocking, turn: _Turn) -> None:
        if turn.slot is not None:
            method.release(turn.slot)
            self.block.released()
            turn.slot, turn.asked = None, time.perf_counter()
        elif not self.block.over:
            turn.slot = method.admit(next(self.block.tenants), turn.user)
            if turn.slot is None:
                self.block.result.refused += 1
                turn.asked = time.perf_counter()
            else:
                self.block.answered(turn.asked)
        else:
            return
        self.turns.put(turn)


def run_threads(methods: Sequence[Blocking], load: Load) -> Result:
    """Run a block of a blocking method, with a thread for each of ``methods`` or for each client, whichever are fewer."""
    block = _Block(load)
    _Threads(block).run(methods)
    return block.result


async def rush_tasks(method: Asynchronous, tenant: int, first: int, clients: int) -> list[object]:
    """Let so many clients ask once, at the same moment; return the slots that they got."""
    got = await asyncio.gather(*(method.admit(tenant, user_of(first + i)) for i in range(clients)))
    return [slot for slot in got if slot is not None]


def rush_threads(methods: Sequence[Blocking], tenant: int, first: int) -> list[object]:
    """The same with a client for each of ``methods``."""
    barrier = threading.Barrier(len(methods))
    got: list[object] = []

    def work(method: Blocking, number: int) -> None:
        barrier.wait()
        if (slot := method.admit(tenant, user_of(number))) is not None:
            got.append(slot)

    threads = [threading.Thread(target=work, args=(each, first + i), daemon=True) for i, each in enumerate(methods)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def user_of(number: int) -> str:
    """Return the user that a client is."""
    return f"user-{number}"
