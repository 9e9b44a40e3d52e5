"""Audio must not wait in a thread for somebody's query: Channels' own dispatch sends every message through one."""

from typing import Any

import pytest
from asgiref.sync import SyncToAsync
from channels import consumer, db

from sessions_app.transport.consumers import VoiceConsumer
from tests.calls import House, make_backend, make_tenant

FRAMES = 100


class Hops:
    """Counts what would go through a thread."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        hop = SyncToAsync.__call__

        async def spy(converted: Any, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return await hop(converted, *args, **kwargs)

        patch.setattr(SyncToAsync, "__call__", spy)

        async def close() -> None:
            self.count += 1

        for module in (consumer, db):
            patch.setattr(module, "aclose_old_connections", close)


async def test_a_hundred_frames_cause_no_hop_at_all(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await make_tenant()
    await make_backend(options={"delay_ms": 0})
    client = home.caller(tenant)
    await client.starts()
    hops = Hops(monkeypatch)
    for number in range(FRAMES):
        client.says(bytes([number]) * 960)
        client.says({"type": "ping", "t": number}) if number % 10 == 0 else None
        assert await client.hears(bytes) == bytes([number]) * 960
    assert hops.count == 0


async def test_the_spy_sees_the_hops_of_a_stock_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stock(consumer.AsyncConsumer):  # type: ignore[misc]
        channel_layer_alias = None

        async def websocket_receive(self, message: Any) -> None:
            pass

    hops = Hops(monkeypatch)
    for _ in range(FRAMES):
        await Stock().dispatch({"type": "websocket.receive", "bytes": b""})
    assert hops.count == FRAMES
    assert VoiceConsumer.__call__ is not consumer.AsyncConsumer.__call__
