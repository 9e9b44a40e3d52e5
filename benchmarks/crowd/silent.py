"""The client process of those who say nothing: sockets with a good token that never send ``session.start``, opened again when closed.

They are opened one after another over ``ramp_s``, so that renewals are spread as evenly as they would be with many clients.
"""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Final

from benchmarks.harness.stage import mint
from benchmarks.harness.wire import RefusedError, Wire, dial
from benchmarks.harness.workers import Parent, serve

TOKEN_S: Final = 40.0  # a token lives 60 s; it is not spent by a socket that does not start
SAMPLE_S: Final = 0.1
PATIENCE_S: Final = 10.0  # with a server that is slow to open them


class Crowd:
    """All of them."""

    def __init__(self, port: int, tenant: int, count: int) -> None:
        self.opened = 0
        self.full = asyncio.Event()
        self.codes: Counter[int] = Counter()
        self.failed = 0
        self.wires: set[Wire] = set()
        self._port = port
        self._tenant = tenant
        self._count = count

    async def stay(self, name: str, first_after_s: float) -> None:
        """Be one of them for ever."""
        await asyncio.sleep(first_after_s)
        token, made = "", float("-inf")
        while True:
            if time.monotonic() - made > TOKEN_S:
                token, made = mint(self._tenant, name), time.monotonic()
            try:
                wire = await dial(self._port, token)
            except RefusedError:
                self.failed += 1
                await asyncio.sleep(SAMPLE_S)
                continue
            self.opened += 1
            if self.opened >= self._count:
                self.full.set()
            self.wires.add(wire)
            try:
                self.codes[await wire.closed] += 1
            finally:
                self.wires.discard(wire)
                wire.drop()


async def main(parent: Parent) -> None:
    """Keep the sockets open until told to stop; say when all were opened, or could not be."""
    told = parent.configuration
    count: int = told["sockets"]
    crowd = Crowd(told["port"], told["tenant"], count)
    tasks = [asyncio.create_task(crowd.stay(f"silent-{i}", told["ramp_s"] * i / count)) for i in range(count)]
    with suppress(TimeoutError):
        async with asyncio.timeout(told["ramp_s"] + PATIENCE_S if count else 0):
            await crowd.full.wait()
    parent.tell("full")
    at_once: list[int] = []
    stop = asyncio.ensure_future(parent.next())
    while not stop.done():
        at_once.append(len(crowd.wires))
        await asyncio.wait({stop}, timeout=SAMPLE_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    parent.tell(
        "result", opened=crowd.opened, failed=crowd.failed, codes=crowd.codes, fewest=min(at_once), mean=sum(at_once) / len(at_once)
    )


if __name__ == "__main__":
    serve(main)
