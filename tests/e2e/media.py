"""A real livekit-server that tells a test's server what happens, the echo agent, and the backend that knows of both."""

import asyncio
import os
import sys
import urllib.request
from pathlib import Path

from sessions_app.models import Backend
from sessions_app.providers.base import Room
from tests import world
from tests.e2e.server import Server, wait_until
from tests.livekit_server import provider_of, start_server
from tests.platform.instance import PROJECT, free_port
from voiceplatform import processes
from voiceplatform.embedded.livekit import LiveKit

AGENT_READY_S = 30.0


class Media:
    """All of it, running.

    Args:
        server: Whom the webhooks tell.
        folder: Where logs and configuration go.

    Attributes:
        livekit: The media server; kill and start it as you like.
        backend: Named ``livekit``.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self.livekit: LiveKit = start_server(folder, webhooks=[f"{server.origin}/webhooks/livekit/livekit/"])
        try:
            port = free_port()
            with (folder / "agent.log").open("ab") as output:
                self._agent = processes.spawn(
                    [sys.executable, "manage.py", "echo_agent", "--listen", f"127.0.0.1:{port}"],
                    environment={**os.environ, "LIVEKIT_API_KEY": self.livekit.key, "LIVEKIT_API_SECRET": self.livekit.secret},
                    folder=PROJECT,
                    output=output,
                )
            self._agent_url = f"http://127.0.0.1:{port}"
            self.backend: Backend = world.make_backend(
                "livekit",
                provider="livekit",
                transports=["webrtc"],
                options={"url": self.livekit.url, "echo_agent_url": self._agent_url},
                secrets={"api_key": self.livekit.key, "api_secret": self.livekit.secret},
                cap=None,
            )
            wait_until(self._agent_answers, AGENT_READY_S, "the echo agent")
        except BaseException:
            self.livekit.kill()
            raise

    def rooms(self) -> list[Room]:
        """The rooms that the media server has."""
        return asyncio.run(self._list())

    def end(self) -> None:
        """Leave nothing behind."""
        processes.end(self._agent)
        self.livekit.kill()

    async def _list(self) -> list[Room]:
        provider = provider_of(self.livekit)
        try:
            return list(await provider.list_rooms())
        finally:
            await provider.aclose()

    def _agent_answers(self) -> bool:
        assert self._agent.poll() is None, "the echo agent ended"
        try:
            with urllib.request.urlopen(f"{self._agent_url}/healthz", timeout=1):
                return True
        except OSError:
            return False
