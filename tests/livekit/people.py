"""People in LiveKit rooms, by the real-time SDK: who comes in, speaks, hears and leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from livekit import rtc

from tests.e2e.sound import RATE, Samples

SOON_S = 20.0
FRAME = RATE // 50  # samples in 20 ms


class Person:
    """Somebody in a room.

    Attributes:
        room: The SDK's.
        gone: Set with the reason once the connection is over for good.
    """

    def __init__(self) -> None:
        self.room = rtc.Room()
        self.gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._heard: list[Samples] = []
        self._listening: list[asyncio.Task[None]] = []
        self._source = rtc.AudioSource(RATE, 1, queue_size_ms=200)
        self.room.on("disconnected", lambda reason: None if self.gone.done() else self.gone.set_result(int(reason)))
        self.room.on("track_subscribed", self._on_track)

    async def enter(self, url: str, token: str) -> "Person":
        """Go in, or raise ``rtc.ConnectError``."""
        async with asyncio.timeout(SOON_S):
            await self.room.connect(url, token)
        return self

    async def leave(self) -> None:
        async with asyncio.timeout(SOON_S):
            await self.room.disconnect()
            for each in self._listening:
                each.cancel()
            await asyncio.gather(*self._listening, return_exceptions=True)
            await self._source.aclose()

    async def publish(self) -> None:
        """Turn the microphone on."""
        track = rtc.LocalAudioTrack.create_audio_track("voice", self._source)
        async with asyncio.timeout(SOON_S):
            await self.room.local_participant.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))

    async def say(self, samples: Samples) -> None:
        """Say all of it, as fast as one speaks."""
        pcm = (samples * 32767).astype("<i2")
        for start in range(0, pcm.size - FRAME, FRAME):
            await self._source.capture_frame(rtc.AudioFrame(pcm[start : start + FRAME].tobytes(), RATE, 1, FRAME))

    @property
    def heard(self) -> Samples:
        """Everything that was heard until now."""
        return np.concatenate(self._heard) if self._heard else np.zeros(0)

    def _on_track(self, track: rtc.Track, *_: Any) -> None:
        self._listening.append(asyncio.ensure_future(self._listen(track)))

    async def _listen(self, track: rtc.Track) -> None:
        stream = rtc.AudioStream.from_track(track=track, sample_rate=RATE, num_channels=1)
        try:
            async for event in stream:
                self._heard.append(np.frombuffer(event.frame.data, dtype="<i2").astype(np.float64) / 32768)
        finally:
            await stream.aclose()


@asynccontextmanager
async def inside(client: Mapping[str, object]) -> AsyncIterator[Person]:
    """Be in a room with what a client is given for it, and leave at the end."""
    person = Person()
    try:
        yield await person.enter(str(client["url"]), str(client["token"]))
    finally:
        await person.leave()


async def until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first value of ``condition``, which may be a coroutine function, that is true; fail when there is none in time."""
    try:
        async with asyncio.timeout(SOON_S):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what} did not come in {SOON_S:g} s") from None
