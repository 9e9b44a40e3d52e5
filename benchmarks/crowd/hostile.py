"""The client process of those who mean harm: each does one wrong thing over and over, and comes back as soon as it was turned away.

Owns: the kinds of harm, and for each the close codes (or, below 1000, HTTP statuses) that the protocol documents as the answer. A
connection that is cut without a close frame is counted apart: who is still writing when the server closes may lose its last word.
"""

import asyncio
import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import jwt

from benchmarks.harness.stage import mint
from benchmarks.harness.wire import LOST, PING, TEXT, RefusedError, Wire, dial, frame
from benchmarks.harness.workers import Parent, serve

ANSWER_S: Final = 10.0
DEAF_S: Final = 10.0  # then it comes back with another session
REPLAYS: Final = 20  # of one spent token
FRAME_BYTES: Final = 960
START: Final = '{"type": "session.start"}'
_FRAME: Final = bytes(FRAME_BYTES)
_LONG_AUDIO: Final = bytes(FRAME_BYTES * 68)  # the most that one message may hold
_TOO_LONG: Final = 70_000
_MALFORMED: Final = ("{", '{"type": "session.sta', '{"type": 7}', "[]", '{"type": "session.start", "pipeline": {}}', "\x00", '"', "nul")
_NESTED: Final = ("[" * 30_000, '{"type": "session.start", "metadata": ' + '{"a": ' * 5_000 + "1" + "}" * 5_001)


class Door:
    """The server, as one of them finds it."""

    def __init__(self, port: int, tenant: int, name: str) -> None:
        self.port = port
        self.tenant = tenant
        self.name = name
        self.wire: Wire | None = None
        self._spent: list[str] = []

    def token(self, **early: Any) -> str:
        """Return a good token, or one that was issued some time ago."""
        return mint(self.tenant, self.name, **early)

    async def open(self, token: str | None = None, **options: Any) -> Wire:
        """Connect; with a good token where none is given."""
        self.wire = await dial(self.port, token or self.token(), **options)
        return self.wire

    async def call(self, **options: Any) -> tuple[Wire, str]:
        """Connect and get a session; return its resume token too, empty where it was refused."""
        wire = await self.open(**options)
        wire.say(START)
        first = json.loads(await wire.text() or "{}")
        return wire, first.get("resume_token", "")

    async def spent(self) -> str:
        """Return a connect or resume token whose session is over."""
        if not self._spent:
            token = self.token()
            wire = await self.open(token)
            wire.say(START)
            started = json.loads(await wire.text() or "{}")
            wire.say('{"type": "session.stop"}')
            await answer(wire)
            self._spent = [token, started.get("resume_token", token)] * (REPLAYS // 2)
        return self._spent.pop()


async def answer(wire: Wire) -> int:
    """Return the close code; what keeps the server that long is counted as a connection cut."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            return await asyncio.shield(wire.closed)
    return LOST


async def malformed(door: Door) -> int:
    """Text that is no message."""
    wire = await door.open()
    for text in itertools.islice(itertools.cycle(_MALFORMED), 20):
        wire.say(text)
    return await answer(wire)


async def nested(door: Door) -> int:
    """JSON that is nested deeper than any honest client's."""
    wire = await door.open()
    for text in _NESTED * 6:
        wire.say(text)
        await wire.room()
    return await answer(wire)


async def oversized(door: Door) -> int:
    """Messages above 64 KiB."""
    wire = await door.open()
    wire.write(frame(TEXT, b"a" * _TOO_LONG))
    wire.speak(bytes(_TOO_LONG))
    return await answer(wire)


async def early(door: Door) -> int:
    """Audio before the session."""
    wire = await door.open()
    for _ in range(20):
        wire.speak(_FRAME)
    return await answer(wire)


async def chatter(door: Door) -> int:
    """A flood of text in a session."""
    wire, _ = await door.call()
    while not wire.over:
        for _ in range(50):
            wire.say('{"type": "ping", "t": 1}')
        await wire.room()
        await asyncio.sleep(0)
    return await answer(wire)


async def noise(door: Door) -> int:
    """A flood of audio in a session: the longest messages, as fast as they are taken."""
    wire, _ = await door.call()
    while not wire.over:
        wire.speak(_LONG_AUDIO)
        await wire.room()
        await asyncio.sleep(0)
    return await answer(wire)


async def deaf(door: Door) -> int:
    """Audio in a session, and nothing of what comes back is read."""
    wire, _ = await door.call(receive_buffer=4096)
    wire.stop_reading()
    until = time.monotonic() + DEAF_S
    while time.monotonic() < until and not wire.over:
        wire.speak(_FRAME)
        await asyncio.sleep(0.02)
    wire.drop()
    return LOST


async def pings(door: Door) -> int:
    """A flood of the WebSocket's own pings, which the server answers before anybody counts them."""
    return await _flood(await door.open(), frame(PING, b"") * 50)


async def pieces(door: Door) -> int:
    """One message in countless empty pieces."""
    wire = await door.open()
    wire.write(bytes((TEXT, 0x80)) + bytes(4))
    return await _flood(wire, (bytes((0, 0x80)) + bytes(4)) * 50)


async def _flood(wire: Wire, frames: bytes) -> int:
    """Send these over and over, as fast as they are taken, for as long as a socket may wait for its session."""
    while not wire.over:
        wire.write(frames)
        await wire.room()
        await asyncio.sleep(0)
    return await answer(wire)


async def forged(door: Door) -> int:
    """A good token, signed with a key that is not the platform's."""
    claims = jwt.decode(door.token(), options={"verify_signature": False})
    return await answer(await door.open(jwt.encode(claims, "k" * 32, algorithm="HS256")))


async def unsigned(door: Door) -> int:
    """A good token without a signature, refused over HTTP."""
    claims = jwt.decode(door.token(), options={"verify_signature": False})
    return await answer(await door.open(jwt.encode(claims, "", algorithm="none"), path="/ws/voice/?refuse=http"))


async def expired(door: Door) -> int:
    """A token of two minutes ago."""
    return await answer(await door.open(door.token(seconds=120)))


async def replayed(door: Door) -> int:
    """The token of a session that is over."""
    wire = await door.open(await door.spent())
    wire.say(START)
    return await answer(wire)


async def garbled(door: Door) -> int:
    """Bytes that are no frames."""
    wire = await door.open()
    wire.write(b"\xff" * 200)
    return await answer(wire)


@dataclass(frozen=True)
class Kind:
    """A kind of harm, and what the protocol answers."""

    does: Callable[[Door], Awaitable[int]]
    answers: frozenset[int]


def _kind(does: Callable[[Door], Awaitable[int]], *answers: int) -> Kind:
    return Kind(does, frozenset(answers))


KINDS: Final = (
    _kind(malformed, 4400),
    _kind(early, 4400),
    _kind(forged, 4401),
    _kind(deaf, LOST),
    _kind(noise, 4400),
    _kind(nested, 4400),
    _kind(oversized, 1009, 4400),
    _kind(chatter, 4400),
    _kind(expired, 4401),
    _kind(replayed, 4401),
    _kind(unsigned, 401, 403),
    _kind(garbled, 1002),
    _kind(pings, 4400),
    _kind(pieces, 4400),
)


NAMES: Final = {getattr(each.does, "__name__", ""): each for each in KINDS}


class Tally:
    """What they were answered."""

    def __init__(self) -> None:
        self.refused = self.cut = self.unanswered = 0
        self.wrong: dict[str, Counter[int]] = defaultdict(Counter)
        self.kinds: Counter[str] = Counter()

    def count(self, name: str, kind: Kind, code: int) -> None:
        """Count one answer; 0: nobody answered the handshake."""
        self.kinds[name] += 1
        if code == 0:
            self.unanswered += 1
        elif code == LOST:
            self.cut += 1
        elif code in kind.answers:
            self.refused += 1
        else:
            self.wrong[name][code] += 1


async def keep_trying(name: str, door: Door, tally: Tally, pause_s: float) -> None:
    """Do it over and over."""
    kind = NAMES[name]
    while True:
        try:
            code = await kind.does(door)
        except RefusedError as error:
            code = error.status
        finally:
            if door.wire is not None:
                door.wire.drop()
        tally.count(name, kind, code)
        await asyncio.sleep(pause_s)


async def main(parent: Parent) -> None:
    """Do harm until told to stop."""
    told, tally = parent.configuration, Tally()
    kinds = told["kinds"]
    doors = [(kinds[i % len(kinds)], Door(told["port"], told["tenant"], f"hostile-{i}")) for i in range(told["clients"])]
    tasks = [asyncio.create_task(keep_trying(name, door, tally, told["pause_ms"] / 1000)) for name, door in doors]
    began = time.monotonic()
    stop = asyncio.ensure_future(parent.next())
    # One that fails by a defect of its own must not fail quietly.
    await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    seconds = time.monotonic() - began
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    parent.tell(
        "result",
        seconds=seconds,
        refused=tally.refused,
        cut=tally.cut,
        unanswered=tally.unanswered,
        wrong={name: dict(codes) for name, codes in tally.wrong.items()},
        kinds=tally.kinds,
    )


if __name__ == "__main__":
    serve(main)
