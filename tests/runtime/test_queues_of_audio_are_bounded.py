"""A queue of audio never grows beyond its bounds, keeps the newest in order, and counts what it lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions_app.domain.states import Reason
from sessions_app.providers.base import AudioFormat, BackendConfig, OpenRequest, ProviderEvent, ProviderSession
from sessions_app.providers.exceptions import AgentAbsent, InvalidConfig, ProviderError
from sessions_app.providers.loopback.provider import LoopbackProvider
from sessions_app.runtime.relay import UPLINK_FRAMES, FrameQueue, Relay, reason_of
from tests.calls import until

SESSION = UUID("01920000-0000-7000-8000-000000000000")


@given(sizes=st.lists(st.integers(1, 50), max_size=60), frames=st.integers(1, 10), size=st.integers(1, 200))
def test_the_newest_stay_in_order_within_both_bounds(sizes: list[int], frames: int, size: int) -> None:
    queue = FrameQueue(max_frames=frames, max_bytes=size)
    sent = [bytes([number % 256]) * length for number, length in enumerate(sizes)]
    for frame in sent:
        queue.put(frame)
        assert len(queue) <= frames
        assert len(queue) == 1 or sum(map(len, queue._frames)) <= size
    kept = list(iter(queue.pop, None))
    assert kept == sent[len(sent) - len(kept) :]
    assert queue.dropped + len(kept) == len(sent)
    assert queue._bytes == 0


async def relayed(provider: LoopbackProvider) -> tuple[Relay, ProviderSession, list[tuple[Reason, str]]]:
    session = await provider.open(OpenRequest(session_id=SESSION, tenant="acme", user="ann", pipeline="s2s", transport="websocket"))
    ends: list[tuple[Reason, str]] = []
    relay = Relay(provider, session, on_end=lambda reason, detail: ends.append((reason, detail)))
    relay.start()
    return relay, session, ends


class Stuck(LoopbackProvider):
    """A backend whose network stands still."""

    async def send(self, session: ProviderSession, frame: bytes) -> None:
        await asyncio.Event().wait()


class Broken(LoopbackProvider):
    """A backend with a defect."""

    def receive(self, session: ProviderSession) -> AsyncIterator[bytes | ProviderEvent]:
        raise KeyError("secret")


async def test_a_backend_that_does_not_take_audio_costs_the_oldest_and_no_memory() -> None:
    provider = Stuck(BackendConfig(name="stuck"))
    relay, session, _ = await relayed(provider)
    for number in range(1_000):
        relay.take(number.to_bytes(2) * 480)
        if number == 0:
            await asyncio.sleep(0)
    assert len(relay.uplink) <= UPLINK_FRAMES
    assert relay.uplink.dropped >= 1_000 - UPLINK_FRAMES - 1
    await relay.stop()
    assert len(relay.uplink) == 0
    await provider.close(session)


async def test_a_defect_of_a_provider_ends_its_session_without_telling_what_it_held(caplog: pytest.LogCaptureFixture) -> None:
    relay, _, ends = await relayed(Broken(BackendConfig(name="broken")))
    await until(lambda: ends)
    assert ends == [(Reason.PROVIDER_FAILED, "unexpected KeyError")]
    assert "provider raised an unexpected error" in caplog.text
    await relay.stop()


async def test_nothing_is_told_after_the_stop() -> None:
    provider = LoopbackProvider(BackendConfig(name="loopback", options={"delay_ms": 0}))
    relay, session, ends = await relayed(provider)
    await relay.stop()
    await provider.close(session)
    await asyncio.sleep(0)
    assert ends == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [(AgentAbsent(), Reason.AGENT_ABSENT), (InvalidConfig(), Reason.CONNECTION_FAILED), (ProviderError(), Reason.PROVIDER_FAILED)],
)
def test_errors_that_only_refuse_end_a_session_as_something_else(error: Any, reason: Reason) -> None:
    assert reason_of(error, otherwise=Reason.CONNECTION_FAILED) is reason


def test_the_bounds_are_seconds_of_speech() -> None:
    frame = AudioFormat(encoding="pcm_s16le", sample_rate=24_000).frame_bytes
    assert UPLINK_FRAMES * frame < 128 * 1024
