"""The client process of those who talk: 20 ms frames of 24 kHz PCM, 50 a second each, and when each one came back.

Lateness is from when a frame should have come back to when it was read here, in ms. The loopback backend gives audio back ``delay``
after it came, at the pace of speech: a frame is due ``delay`` after it was sent, but not before the one ahead of it has been spoken. The
due time is reckoned from the times of sending alone: what the client itself did late is not held against the server, but all else is, on
the way, in server and backend, on the way back, and in this process while it was kept from reading. ``lag`` shows the last: how late it
was in sending.
"""

import asyncio
import json
import time
from contextlib import suppress
from typing import Final

from benchmarks.harness.stage import mint
from benchmarks.harness.wire import Wire, dial
from benchmarks.harness.workers import Parent, serve
from sessions_app.providers.loopback.echo import HURRY_AFTER_S, HURRY_PACE

FRAME_S: Final = 0.02
FRAME_BYTES: Final = 960  # 20 ms of 24 kHz, 16 bits, one channel
OUTSTANDING_S: Final = 2.0  # for the last frames
START_S: Final = 15.0
_SEQUENCE: Final = 8  # bytes of a frame that tell which it is; the rest is a wave
_WAVE: Final = bytes((17 * each) % 251 for each in range(FRAME_BYTES - _SEQUENCE))


class Talker:
    """One client with its session."""

    def __init__(self) -> None:
        self.sent: list[float] = []
        self.lag: list[float] = []
        self.back: dict[int, float] = {}
        self.doubled = 0
        self.complete = asyncio.Event()
        self._wire: Wire | None = None
        self._next = 0.0
        self._talking = False

    async def start(self, port: int, token: str) -> None:
        """Connect and begin a session."""
        self._wire = await dial(port, token)
        self._wire.on_audio = self._hear
        self._wire.say('{"type": "session.start"}')
        first = await self._wire.text()
        if first is None or json.loads(first)["type"] != "session.started":
            raise RuntimeError(f"A talker was not let in: {first}")

    def talk(self, at: float) -> None:
        """Speak from this monotonic time on."""
        self._talking, self._next = True, at
        asyncio.get_running_loop().call_later(at - time.monotonic(), self._speak)

    def hush(self) -> None:
        """Speak no more; ``complete`` is set once all is back."""
        self._talking = False
        self._look()

    async def leave(self) -> int:
        """End the session and return the close code; that of the server where it has ended it already."""
        assert self._wire is not None
        self._wire.say('{"type": "session.stop"}')
        try:
            async with asyncio.timeout(OUTSTANDING_S):
                return await asyncio.shield(self._wire.closed)
        except TimeoutError:
            self._wire.drop()
            return 0

    def lateness(self, delay_s: float) -> list[float | None]:
        """Return for each frame how many ms late it came back, None where it did not."""
        late: list[float | None] = []
        due = float("-inf")
        for number, sent in enumerate(self.sent):
            earliest = sent + delay_s
            spoken = due + FRAME_S
            if spoken - earliest > HURRY_AFTER_S:
                spoken = due + FRAME_S * HURRY_PACE
            due = max(earliest, spoken)
            came = self.back.get(number)
            late.append(None if came is None else round((came - due) * 1000, 2))
        return late

    def _speak(self) -> None:
        if not self._talking or self._wire is None:
            return
        now = time.monotonic()
        self._wire.speak(len(self.sent).to_bytes(_SEQUENCE, "big") + _WAVE)
        self.sent.append(now)
        self.lag.append(round((now - self._next) * 1000, 2))
        self._next += FRAME_S
        asyncio.get_running_loop().call_later(max(0.0, self._next - time.monotonic()), self._speak)

    def _hear(self, audio: bytes) -> None:
        number = int.from_bytes(audio[:_SEQUENCE], "big")
        if number in self.back:
            self.doubled += 1
        self.back[number] = time.monotonic()
        if not self._talking:
            self._look()

    def _look(self) -> None:
        if len(self.back) >= len(self.sent):
            self.complete.set()


async def main(parent: Parent) -> None:
    """Talk until told to stop, and tell how it went in each phase."""
    told = parent.configuration
    talkers = [Talker() for _ in range(told["clients"])]
    async with asyncio.timeout(START_S):
        await asyncio.gather(*(each.start(told["port"], mint(told["tenant"], f"talker-{i}")) for i, each in enumerate(talkers)))
    begin = time.monotonic() + 0.1
    for number, talker in enumerate(talkers):
        talker.talk(begin + FRAME_S * number / len(talkers))  # people do not speak in step
    parent.tell("ready")
    marks: list[tuple[float, str]] = []
    while (message := await parent.next())["do"] != "stop":
        marks.append((time.monotonic(), message["phase"]))
    for talker in talkers:
        talker.hush()
    with suppress(TimeoutError):
        async with asyncio.timeout(OUTSTANDING_S):
            await asyncio.gather(*(each.complete.wait() for each in talkers))
    codes = await asyncio.gather(*(each.leave() for each in talkers))
    parent.tell("result", phases=_by_phase(talkers, marks, told["delay_ms"] / 1000), codes=codes, doubled=sum(t.doubled for t in talkers))


def _by_phase(talkers: list[Talker], marks: list[tuple[float, str]], delay_s: float) -> dict[str, dict[str, object]]:
    """Return lateness (a list for each talker) and lag of the frames that were sent in each phase."""
    ends = [at for at, _ in marks[1:]] + [float("inf")]
    phases: dict[str, dict[str, object]] = {}
    late = [each.lateness(delay_s) for each in talkers]
    for (start, name), end in zip(marks, ends, strict=True):
        chosen = [[i for i, sent in enumerate(each.sent) if start <= sent < end] for each in talkers]
        phases[name] = {
            "late_ms": [[late[t][i] for i in numbers] for t, numbers in enumerate(chosen)],
            "lag_ms": [talkers[t].lag[i] for t, numbers in enumerate(chosen) for i in numbers],
        }
    return phases


if __name__ == "__main__":
    serve(main)
