"""An agent of your own, by livekit-agents, that the platform dispatches by name; it answers with the caller's own voice.

Run by ``make agents``, or ``python -m livekit.agents start agent.py``. Where the LiveKit is: ``LIVEKIT_URL``, ``LIVEKIT_API_KEY`` and
``LIVEKIT_API_SECRET``, else the one that ``make run-livekit`` started. ``converse`` is the place for a model: see README.md.
"""

import asyncio
import json
import os
from pathlib import Path

from livekit import rtc
from livekit.agents import AgentServer, JobContext

AGENT_NAME = os.environ.get("AGENT_NAME", "concierge")
MAX_CALLS = 10  # at once; a call that nobody takes is asked for once more by the platform, and then ends
RATE = 48_000  # Hz


def known_livekit() -> dict[str, str]:
    """Return what ``make run-livekit`` says of its server; nothing where the environment names one, or none runs."""
    folder = Path(os.environ.get("VOICE_DATA_DIR") or Path(__file__).parents[2] / ".data")
    try:
        known = {} if os.environ.get("LIVEKIT_URL") else json.loads((folder / "livekit.json").read_text())
    except FileNotFoundError:
        return {}
    return {"ws_url": known["url"], "api_key": known["api_key"], "api_secret": known["api_secret"]} if known else {}


def load(server: AgentServer) -> float:
    """Return how full this worker is: 1 is full. By calls, since by the processor's load a small machine would refuse its first one."""
    return len(server.active_jobs) / MAX_CALLS


server = AgentServer(host="127.0.0.1", load_fnc=load, load_threshold=1.0, num_idle_processes=1, **known_livekit())


@server.rtc_session(agent_name=AGENT_NAME)
async def answer(ctx: JobContext) -> None:
    """Talk in the room that the dispatch names; the job lasts until the room ends."""
    told = json.loads(ctx.job.metadata or "{}")  # session, tenant, user, pipeline, model, metadata
    await converse(ctx, told)


async def converse(ctx: JobContext, told: dict[str, object]) -> None:
    """Enter, and say back what is heard. ``told["model"]`` are the pipeline's settings as the platform's backend has them."""
    source = rtc.AudioSource(RATE, 1, queue_size_ms=200)
    echoes: set[asyncio.Task[None]] = set()  # a user who lost the connection comes back with another track

    @ctx.room.on("track_subscribed")
    def on_track(track: rtc.Track, _publication: rtc.RemoteTrackPublication, _participant: rtc.RemoteParticipant) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            echo = asyncio.create_task(repeat(track, source))
            echoes.add(echo)
            echo.add_done_callback(echoes.discard)

    await ctx.connect()
    voice = rtc.LocalAudioTrack.create_audio_track("agent", source)
    # At once, before anybody speaks: an agent that has published no audio counts as absent.
    await ctx.room.local_participant.publish_track(voice, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))


async def repeat(track: rtc.Track, source: rtc.AudioSource) -> None:
    """Say back this track, 200 ms of it under way at most."""
    stream = rtc.AudioStream.from_track(track=track, sample_rate=RATE, num_channels=1, frame_size_ms=20, capacity=10)
    try:
        async for event in stream:
            await source.capture_frame(event.frame)
    finally:
        await stream.aclose()
