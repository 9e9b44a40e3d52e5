"""The client process of those who call: all at once, each by a WebSocket and then into its room with the real-time SDK.

An attempt is timed twice, in ms: from before the connection is opened to ``session.started`` with its LiveKit token, and from
``session.start`` to the same. The rooms are entered once everybody has a token, so that the work of fifty WebRTC clients on this machine is
not taken for the platform's.
"""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any, Final

from livekit import rtc

from benchmarks.harness.stage import mint
from benchmarks.harness.wire import Wire, dial
from benchmarks.harness.workers import Parent, serve

START_S: Final = 30.0
JOIN_S: Final = 60.0
LEAVE_S: Final = 10.0


class Caller:
    """One client with its session."""

    def __init__(self) -> None:
        self.from_dial_ms = float("nan")
        self.from_start_ms = float("nan")
        self.join_ms = float("nan")
        self.refusal = ""
        self._wire: Wire | None = None
        self._room: rtc.Room | None = None
        self._way_in: dict[str, str] = {}

    async def attempt(self, port: int, token: str) -> None:
        """Ask for a session and wait for the token of its room."""
        dialled_at = time.monotonic()
        self._wire = await dial(port, token)
        asked_at = time.monotonic()
        self._wire.say('{"type": "session.start", "transport": "webrtc"}')
        async with asyncio.timeout(START_S):
            said: dict[str, Any] = json.loads(await self._wire.text() or '{"type": "closed"}')
        now = time.monotonic()
        if said["type"] != "session.started":
            self.refusal = str(said.get("code", said["type"]))
            return
        self.from_dial_ms, self.from_start_ms = 1000 * (now - dialled_at), 1000 * (now - asked_at)
        self._way_in = said["livekit"]

    async def join(self) -> None:
        """Enter the room."""
        if not self._way_in:
            return
        began_at = time.monotonic()
        self._room = rtc.Room()
        try:
            async with asyncio.timeout(JOIN_S):
                await self._room.connect(self._way_in["url"], self._way_in["token"])
        except (rtc.ConnectError, TimeoutError) as error:
            self.refusal = f"not in the room: {type(error).__name__}"
            return
        self.join_ms = 1000 * (time.monotonic() - began_at)

    async def leave(self) -> None:
        """End the session, which ends the room."""
        if self._wire is not None:
            self._wire.say('{"type": "session.stop"}')
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                if self._wire is not None:
                    await asyncio.shield(self._wire.closed)
                if self._room is not None:
                    await self._room.disconnect()


async def main(parent: Parent) -> None:
    """Call when the benchmark says so, join, wait for ``leave``, and leave."""
    told = parent.configuration
    tokens = [mint(told["tenant"], f"user{told['round']}-{number}") for number in range(told["callers"])]
    parent.tell("ready")
    await parent.next()
    callers = [Caller() for _ in tokens]
    began_at = time.monotonic()
    await asyncio.gather(*(each.attempt(told["port"], token) for each, token in zip(callers, tokens, strict=True)))
    all_ms = 1000 * (time.monotonic() - began_at)
    parent.tell("tokens", all_ms=all_ms, refused=[each.refusal for each in callers if each.refusal])
    await asyncio.gather(*(each.join() for each in callers))
    parent.tell(
        "joined",
        from_dial_ms=[each.from_dial_ms for each in callers if not each.refusal],
        from_start_ms=[each.from_start_ms for each in callers if not each.refusal],
        join_ms=[each.join_ms for each in callers if not each.refusal],
        refused=[each.refusal for each in callers if each.refusal],
    )
    await parent.next()
    await asyncio.gather(*(each.leave() for each in callers))
    parent.tell("left")


if __name__ == "__main__":
    serve(main)
