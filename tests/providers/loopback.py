"""Short words for tests of the loopback backend."""

import asyncio
from typing import Any
from uuid import uuid4

from sessions_app.providers.base import BackendConfig, OpenRequest, ProviderSession
from sessions_app.providers.loopback.provider import LoopbackProvider

FRAME_S = 0.02
FRAME_BYTES = 960  # 20 ms of mono 16-bit at 24 kHz


def backend(**options: object) -> LoopbackProvider:
    return LoopbackProvider(BackendConfig(name="main", options=options))


def request(**changes: Any) -> OpenRequest:
    fields: dict[str, Any] = {"session_id": uuid4(), "tenant": "demo", "user": "ann", "pipeline": "s2s", "transport": "websocket"}
    return OpenRequest(**fields | changes)


def frame(number: int) -> bytes:
    """A frame that can be told from others."""
    return number.to_bytes(4, "big") * (FRAME_BYTES // 4)


class Listener:
    """Reads a session to its end and keeps what came, with its time in seconds on the loop's clock."""

    def __init__(self, provider: LoopbackProvider, session: ProviderSession) -> None:
        self.heard: list[tuple[float, bytes]] = []
        self.task = asyncio.create_task(self._listen(provider, session))

    async def _listen(self, provider: LoopbackProvider, session: ProviderSession) -> None:
        loop = asyncio.get_running_loop()
        async for item in provider.receive(session):
            assert isinstance(item, bytes)
            self.heard.append((loop.time(), item))

    @property
    def frames(self) -> list[bytes]:
        return [item for _, item in self.heard]

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.heard]
