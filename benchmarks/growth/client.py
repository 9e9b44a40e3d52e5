"""A client process of ``growth``: admits and releases in blocks, and holds or queues sessions between them, all by the product's ledger."""

import asyncio
import gc
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any, Final
from uuid import UUID

import uuid_utils.compat

from benchmarks.admission.work import Load, run_tasks
from benchmarks.harness.workers import Parent, serve
from voiceplatform import web

AT_ONCE: Final = 512


class Live:
    """Sessions that stay while blocks run."""

    def __init__(self, ours: Any) -> None:
        self._ours = ours
        self._held: list[UUID] = []

    async def add(self, told: dict[str, Any]) -> dict[str, int]:
        """Ask for sessions; return how many became active and how many wait."""
        from sessions_app.domain.operations import Activate, Admit
        from sessions_app.domain.states import State
        from sessions_app.domain.world import Attempt

        batcher, node_id, tenants = self._ours.batcher, self._ours.node_id, told["tenants"]
        attempts = (
            Attempt(uuid_utils.compat.uuid7(), tenants[i % len(tenants)], told["user"].format(i), backend=told["backend"])
            for i in range(told["first"], told["first"] + told["count"])
        )
        found = {"active": 0, "queued": 0}
        while some := list(islice(attempts, AT_ONCE)):
            answers = await asyncio.gather(*(batcher.submit(Admit(each, node_id)) for each in some))
            started = [each.session_id for each in answers if each.state is State.STARTING]
            waiting = [each.session_id for each in answers if each.state is State.QUEUED]
            found["active"] += sum(await asyncio.gather(*(batcher.submit(Activate(each, node_id)) for each in started)))
            found["queued"] += len(waiting)
            self._held += started + waiting
        return found

    async def drop(self) -> int:
        """End them all, the last ones first; return how many there were."""
        ended = 0
        async for done in self._drop():
            ended += done
        return ended

    async def _drop(self) -> AsyncIterator[int]:
        from sessions_app.domain.operations import End
        from sessions_app.domain.states import Reason

        while self._held:
            some, self._held = self._held[-AT_ONCE:], self._held[:-AT_ONCE]
            yield sum(await asyncio.gather(*(self._ours.batcher.submit(End(each, Reason.COMPLETED)) for each in some)))


async def main(parent: Parent) -> None:
    """Do what the benchmark says until it says no more."""
    import django

    django.setup()
    from benchmarks.admission.ours import Ours

    ours = Ours()
    await ours.open()
    web.collect_seldom()
    gc.enable()  # as in a web process
    live = Live(ours)
    parent.tell("ready")
    while (told := await parent.next())["do"] != "stop":
        match told["do"]:
            case "block":
                result = await run_tasks(ours, Load(told["waiting"], told["seconds"], told["tenants"], told["first"]))
                parent.tell("result", pairs=result.pairs, refused=result.refused, late_ms=result.late_ms)
            case "add":
                parent.tell("result", **await live.add(told))
            case "drop":
                parent.tell("result", ended=await live.drop())
    await ours.close()
    parent.tell("done")


if __name__ == "__main__":
    serve(main)
