"""A client process of ``admission``: has every method ready, and runs a block of one when it is told to."""

import asyncio
import gc
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.admission.work import Asynchronous, Blocking, Load, Result, run_tasks, run_threads, rush_tasks, rush_threads
from benchmarks.harness.workers import Message, Parent, serve
from voiceplatform import web


class Methods:
    """All methods of one process."""

    def __init__(self, told: Message) -> None:
        import django

        django.setup()
        from benchmarks.admission import ours, rivals, semaphore

        self._told = told
        url, valkey = os.environ["DATABASE_URL"], os.environ["VALKEY_URL"]
        rivals.use_own_connections()
        self.ours = ours.Ours()
        self.singly = semaphore.Singly(valkey, race=told["race"])
        self.pipelined = semaphore.Pipelined(valkey, race=told["race"])
        self.tasks: dict[str, Any] = {"ours": self.ours, "valkey": self.singly, "valkey_pipelined": self.pipelined}
        self.makers: dict[str, Callable[[], Any]] = {
            "count_insert": lambda: rivals.CountThenInsert(url),
            "row_lock": lambda: rivals.RowLock(url),
            "orm": rivals.Orm,
        }
        self.blocking: dict[str, list[Any]] = {}
        self.rushing: dict[str, list[Any]] = {}

    async def open(self) -> None:
        """Connect."""
        for name in self.makers:
            self.blocking[name] = await asyncio.to_thread(self._make, name, self._told["connections"])
        await self.ours.open()
        await self.singly.open()
        await self.pipelined.open()

    async def close(self) -> None:
        """Close what was opened."""
        await self.ours.close()
        await self.singly.close()
        await self.pipelined.close()
        await asyncio.to_thread(_close, *self.blocking.values(), *self.rushing.values())

    def _make(self, name: str, count: int) -> list[Any]:
        return [self.makers[name]() for _ in range(count)]

    async def block(self, name: str, load: Load) -> Result:
        """Run one."""
        if name in self.tasks:
            method: Asynchronous = self.tasks[name]
            return await run_tasks(method, load)
        return await asyncio.to_thread(run_threads, self.blocking[name], load)

    async def rush(self, name: str, tenant: int, first: int, clients: int) -> list[object]:
        """Ask all at once."""
        if name in self.tasks:
            return await rush_tasks(self.tasks[name], tenant, first, clients)
        if name not in self.rushing:
            # A connection for each of them: they are to ask at the same moment, and nobody waits for a pool.
            await asyncio.to_thread(_close, *self.rushing.values())
            self.rushing = {name: await asyncio.to_thread(self._make, name, clients)}
        return await asyncio.to_thread(rush_threads, self.rushing[name], tenant, first)

    async def give_back(self, name: str, slots: Sequence[object]) -> None:
        """Release what a rush got."""
        if name in self.tasks:
            await asyncio.gather(*(self.tasks[name].release(each) for each in slots))
            return
        method: Blocking = self.blocking[name][0]
        for each in slots:
            await asyncio.to_thread(method.release, each)


def _close(*methods: Sequence[Any]) -> None:
    for each in (method for several in methods for method in several):
        each.close()


KIND: Final = "result"


async def main(parent: Parent) -> None:
    """Do what the benchmark says until it says no more."""
    methods = Methods(parent.configuration)
    await methods.open()
    web.collect_seldom()
    gc.enable()  # as in a web process; a pause of it is one of the method's own
    parent.tell("ready")
    got: list[object] = []
    while (told := await parent.next())["do"] != "stop":
        name = told["method"]
        match told["do"]:
            case "block":
                result = await methods.block(name, Load(told["waiting"], told["seconds"], told["tenants"], told["first"]))
                parent.tell(KIND, pairs=result.pairs, refused=result.refused, late_ms=result.late_ms)
            case "rush":
                got = await methods.rush(name, told["tenant"], told["first"], told["clients"])
                parent.tell(KIND, admitted=len(got))
            case "give_back":
                await methods.give_back(name, got)
                parent.tell(KIND)
    await methods.close()
    parent.tell("done")


if __name__ == "__main__":
    serve(main)
