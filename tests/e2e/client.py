"""A client that speaks ``voice.v1`` over a real socket, written from the protocol alone."""

import json
import socket
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

SOON_S = 10.0


@dataclass(frozen=True)
class Closed:
    """How the server closed; 1006 where it said nothing."""

    code: int


class Attentive(ClientConnection):
    """Hears what came together with the close, also where nothing can be sent any more; the library forgets it then."""

    def send_data(self) -> None:
        if threading.current_thread() is not self.recv_events_thread:
            super().send_data()
            return
        with suppress(OSError):
            super().send_data()


class Call:
    """One connection. What comes is taken in order: dicts, bytes and at last ``Closed``."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        subprotocols: list[str] | None = None,
        origin: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if subprotocols is None:
            subprotocols = ["voice.v1", *([f"token.{token}"] if token else [])]
        self._open = ExitStack()
        opening = connect(
            url,
            subprotocols=[Subprotocol(each) for each in subprotocols] or None,
            origin=Origin(origin) if origin else None,
            additional_headers=headers,
            compression=None,
            proxy=None,
            max_size=None,
            open_timeout=SOON_S,
            create_connection=Attentive,
        )
        self.socket: ClientConnection = self._open.enter_context(opening)

    def say(self, thing: dict[str, Any] | str | bytes) -> None:
        """Send a message, raw text or audio."""
        self.socket.send(json.dumps(thing) if isinstance(thing, dict) else thing)

    def pour(self, thing: dict[str, Any] | bytes) -> None:
        """Send past the library, which forgets what has come when it can send no more; ``OSError`` when that is so."""
        text = isinstance(thing, dict)
        frame = Frame(Opcode.TEXT if text else Opcode.BINARY, json.dumps(thing).encode() if text else thing)  # type: ignore[arg-type]
        self.socket.socket.sendall(frame.serialize(mask=True))

    def hear(self, timeout: float = SOON_S) -> dict[str, Any] | bytes | Closed:
        """Return the next thing that comes."""
        try:
            thing = self.socket.recv(timeout=timeout)
        except ConnectionClosed as closed:
            return Closed(closed.rcvd.code if closed.rcvd is not None else 1006)
        if isinstance(thing, bytes):
            return thing
        message: dict[str, Any] = json.loads(thing)
        return message

    def message(self, kind: str, timeout: float = SOON_S) -> dict[str, Any]:
        """Return the next message, which must be of this kind; audio before it is passed over."""
        end = time.monotonic() + timeout
        while isinstance(thing := self.hear(max(0.0, end - time.monotonic())), bytes):
            continue
        assert isinstance(thing, dict), f"{kind} was expected, and {thing} came"
        assert thing["type"] == kind, thing
        return thing

    def closed(self, timeout: float = SOON_S) -> int:
        """Return the close code; audio before it is passed over, a message is not."""
        end = time.monotonic() + timeout
        while isinstance(thing := self.hear(max(0.0, end - time.monotonic())), bytes):
            continue
        assert isinstance(thing, Closed), thing
        return thing.code

    def start(self, **fields: Any) -> dict[str, Any]:
        """Ask for the session and return ``session.started``."""
        self.say({"type": "session.start", **fields})
        return self.message("session.started")

    def refused(self, **fields: Any) -> tuple[dict[str, Any], int]:
        """Ask for the session; return the refusal and the close code."""
        self.say({"type": "session.start", **fields})
        return self.message("session.rejected"), self.closed()

    def stop(self) -> dict[str, Any]:
        """Stop the session in order; return ``session.ended``."""
        self.say({"type": "session.stop"})
        ended = self.message("session.ended")
        assert self.closed() == 1000
        return ended

    def exchange(self, frames: list[bytes]) -> list[bytes]:
        """Send audio, then return as many messages of audio as were sent."""
        for frame in frames:
            self.say(frame)
        heard: list[bytes] = []
        while len(heard) < len(frames):
            thing = self.hear()
            assert isinstance(thing, bytes), thing
            heard.append(thing)
        return heard

    def drop(self) -> None:
        """Lose the connection: no close frame."""
        self.socket.socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Leave nothing behind."""
        self._open.close()
