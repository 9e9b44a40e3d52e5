"""What goes over a page's WebSockets to the platform."""

import json
from typing import Any

from playwright.async_api import Page, WebSocket


class Wire:
    """Listens from when it is made.

    Attributes:
        opened: How many there were.
        told: The server's messages but for pongs.
    """

    def __init__(self, page: Page) -> None:
        self.opened = 0
        self.told: list[dict[str, Any]] = []
        page.on("websocket", self._opened)

    def kinds(self) -> list[object]:
        """The types of the messages, in order."""
        return [each["type"] for each in self.told]

    def _opened(self, socket: WebSocket) -> None:
        # Media servers have WebSockets of their own.
        if socket.url.endswith("/ws/voice/"):
            self.opened += 1
            socket.on("framereceived", self._hear)

    def _hear(self, frame: bytes | str) -> None:
        if isinstance(frame, str) and (message := json.loads(frame))["type"] != "pong":
            self.told.append(message)
