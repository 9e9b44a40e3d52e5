"""What a client hears of the loopback backend is what it said, byte for byte."""

import random
from collections.abc import Callable

import pytest

from tenants.models import Tenant
from tests.e2e.client import Call


@pytest.mark.parametrize("sample_rate", [24_000, 16_000])
def test_the_echo_is_what_was_said(dial: Callable[..., Call], new_tenant: Callable[..., Tenant], sample_rate: int) -> None:
    call = dial(new_tenant(backend={"options": {"delay_ms": 100, "sample_rate": sample_rate}}))
    started = call.start()
    assert started["audio"] == {"encoding": "pcm_s16le", "sample_rate": sample_rate, "channels": 1, "frame_ms": 20}
    assert call.socket.subprotocol == "voice.v1"
    size = sample_rate // 50 * 2
    frames = [random.Random(number).randbytes(size) for number in range(50)]
    assert call.exchange(frames) == frames
    call.stop()


def test_several_frames_in_one_message_come_back_one_by_one(dial: Callable[..., Call], new_tenant: Callable[..., Tenant]) -> None:
    call = dial(new_tenant())
    call.start()
    frames = [bytes([number]) * 960 for number in range(5)]
    call.say(b"".join(frames))
    assert [call.hear() for _ in frames] == frames


def test_what_is_no_audio_is_told_and_the_call_goes_on(dial: Callable[..., Call], new_tenant: Callable[..., Tenant]) -> None:
    call = dial(new_tenant())
    call.say(bytes(960))
    assert call.message("error")["code"] == "audio_before_start"
    call.start()
    call.say(b"half a frame")
    assert call.message("error")["code"] == "invalid_audio"
    call.say("{")
    assert call.message("error")["code"] == "invalid_message"
    call.say({"type": "session.dance"})
    assert call.message("error")["code"] == "invalid_message"
    call.say({"type": "ping", "t": 42})
    assert call.message("pong")["t"] == 42
    assert call.exchange([b"\x01" * 960]) == [b"\x01" * 960]
