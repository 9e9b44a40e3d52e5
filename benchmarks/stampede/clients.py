"""A client process of ``stampede``: its share of those who come, all at the same moment, each with a token of its own.

Each connects, opens the WebSocket, says ``session.start`` and waits for its first answer. Times are monotonic seconds, the same clock in
all processes of a machine; an answer's time is taken when it was read here, so what this process itself is late counts as the server's.
"""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.harness.stage import mint
from benchmarks.harness.wire import RefusedError, Wire, dial
from benchmarks.harness.workers import Parent, serve

PATIENCE_S: Final = 60.0  # who has no answer by then has none
LEAVE_S: Final = 60.0
START: Final = '{"type": "session.start"}'
STOP: Final = '{"type": "session.stop"}'


@dataclass
class Visit:
    """How it went for one client.

    Attributes:
        asked: When it began to connect; ``opened`` when the handshake was answered, ``answered`` when its first message came.
        kind: Of that message: ``started``, ``queued``, or a refusal's ``code``; ``http N`` where the handshake was refused, ``none``
            where no answer came.
        position: In the queue; 0 without one.
        close: Code that a refused client was closed with; 0 before.
    """

    asked: float = 0.0
    opened: float | None = None
    answered: float | None = None
    kind: str = "none"
    position: int = 0
    close: int = 0


class Client:
    """One of them."""

    def __init__(self, token: str) -> None:
        self.visit = Visit()
        self._token = token
        self._wire: Wire | None = None

    async def come(self, port: int) -> None:
        """Ask, and wait for the answer, and where it is a refusal for the close."""
        visit = self.visit
        visit.asked = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                wire = self._wire = await dial(port, self._token, open_s=PATIENCE_S)
                visit.opened = time.monotonic()
                wire.say(START)
                text = await wire.text()
                if text is None:
                    visit.close = await wire.closed
                    return
                visit.answered = time.monotonic()
                self._read(json.loads(text))
                if visit.kind not in {"started", "queued"}:
                    visit.close = await asyncio.shield(wire.closed)
        except RefusedError as error:
            visit.kind = f"http {error.status}"
        except TimeoutError:
            return

    async def leave(self) -> None:
        """Stop, and wait until the server has said goodbye."""
        wire = self._wire
        if wire is None:
            return
        wire.say(STOP)
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await asyncio.shield(wire.closed)
        wire.drop()

    def _read(self, message: dict[str, Any]) -> None:
        visit, kind = self.visit, message["type"]
        if kind == "session.rejected":
            visit.kind = message["code"]
        else:
            visit.kind = kind.removeprefix("session.")
            visit.position = message.get("position", 0)


async def main(parent: Parent) -> None:
    """Come and go as often as told."""
    told = parent.configuration
    count: int = told["clients"]
    parent.tell("ready")
    while (message := await parent.next())["do"] == "come":
        names = (f"{message['round']}-{told['first'] + i}" for i in range(count))
        clients = [Client(mint(told["tenant"], name)) for name in names]
        parent.tell("minted")
        start = (await parent.next())["at"]
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        began = time.process_time()
        await asyncio.gather(*(each.come(told["port"]) for each in clients))
        parent.tell("answers", visits=[asdict(each.visit) for each in clients], cpu_s=time.process_time() - began)
        await parent.next()
        await asyncio.gather(*(each.leave() for each in clients))
        parent.tell("gone")


if __name__ == "__main__":
    serve(main)
