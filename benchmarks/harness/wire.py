"""A bare WebSocket client: little work for each frame, so that the client is not what is measured, and free to misbehave.

Owns: handshake, frames, pongs, and telling how the connection ended. Frames go out with a mask of zeros: the server's work is the same.
Refuses: extensions, fragmented messages from the server (it sends none), TLS.
"""

import asyncio
import base64
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, cast

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
LOST: Final = 1006  # nothing was said
OPEN_S: Final = 10.0
_NO_MASK: Final = bytes(4)


class RefusedError(Exception):
    """The handshake was refused, or nobody answered.

    Attributes:
        status: Of HTTP; 0 where nobody answered.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return b"".join((head, _NO_MASK, payload))


class Wire(asyncio.Protocol):
    """One connection; made by ``dial``.

    Attributes:
        closed: Done with the close code once the connection is over.
        on_audio: Takes each binary message as it comes.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[int] = loop.create_future()
        self.on_audio: Callable[[bytes], None] | None = None
        self.answered: asyncio.Future[int] = loop.create_future()
        self.transport: asyncio.Transport | None = None
        self._texts: deque[str] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._buffer = bytearray()
        self._upgraded = False

    # --- what the client does --------------------------------------------------------------------------------------------------
    @property
    def over(self) -> bool:
        """Whether nothing can be sent any more."""
        return self.closed.done() or self.transport is None or self.transport.is_closing()

    def write(self, raw: bytes) -> None:
        """Send bytes as they are; nothing where the connection is over."""
        if not self.over and self.transport is not None:
            self.transport.write(raw)

    def say(self, text: str) -> None:
        """Send a text message."""
        self.write(frame(TEXT, text.encode()))

    def speak(self, audio: bytes) -> None:
        """Send a binary message."""
        self.write(frame(BINARY, audio))

    async def room(self) -> None:
        """Wait until what was written is on its way, or the connection is over."""
        await self._room.wait()

    async def text(self) -> str | None:
        """Return the next text message; None when the connection is over."""
        while not self._texts:
            if self.closed.done():
                return None
            self._news.clear()
            await self._news.wait()
        return self._texts.popleft()

    def drop(self) -> None:
        """Lose the connection."""
        if self.transport is not None:
            self.transport.abort()

    def stop_reading(self) -> None:
        """Let what comes pile up."""
        if self.transport is not None:
            self.transport.pause_reading()

    # --- what asyncio tells ----------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without being derived from it

    def data_received(self, data: bytes) -> None:
        """Read all whole frames."""
        self._buffer += data
        if not self._upgraded and not self._read_answer():
            return
        self._read_frames()

    def pause_writing(self) -> None:
        """Hold back."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell everybody who waits."""
        if not self.closed.done():
            self.closed.set_result(LOST)
        if not self.answered.done():
            self.answered.set_result(0)
        self._room.set()
        self._news.set()

    def _read_answer(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        if not self.answered.done():
            self.answered.set_result(int(head[9:12]))
        self._buffer = rest
        self._upgraded = True
        return True

    def _read_frames(self) -> None:
        buffer, start, have = self._buffer, 0, len(self._buffer)
        while have - start >= 2:
            size, at = buffer[start + 1] & 127, start + 2
            if size == 126:
                if have - start < 4:
                    break
                size, at = int.from_bytes(buffer[at : at + 2], "big"), at + 2
            elif size == 127:
                if have - start < 10:
                    break
                size, at = int.from_bytes(buffer[at : at + 8], "big"), at + 8
            if have - at < size:
                break
            self._take(buffer[start] & 15, bytes(buffer[at : at + size]))
            start = at + size
        del buffer[:start]

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == BINARY:
            if self.on_audio is not None:
                self.on_audio(payload)
        elif opcode == TEXT:
            self._texts.append(payload.decode())
            self._news.set()
        elif opcode == PING:
            self.write(frame(PONG, payload))
        elif opcode == CLOSE and not self.closed.done():
            self.closed.set_result(int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005)
            self.write_close(payload[:2])
            self._news.set()

    def write_close(self, code: bytes) -> None:
        """Answer the server's close; the server ends the connection."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(frame(CLOSE, code))


async def dial(
    port: int,
    token: str | None,
    *,
    path: str = "/ws/voice/",
    headers: tuple[str, ...] = (),
    receive_buffer: int | None = None,
    open_s: float = OPEN_S,
) -> Wire:
    """Connect to the server on this machine.

    Args:
        port: Of 127.0.0.1.
        token: Offered as a subprotocol; None: none.
        path: With the query.
        headers: Further lines of the handshake.
        receive_buffer: Bytes that the kernel takes for a client who does not read.
        open_s: How long to wait for the answer.

    Raises:
        RefusedError: The server refused, or did not answer in time.
    """
    loop = asyncio.get_running_loop()
    link = socket.socket()
    link.setblocking(False)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer is not None:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    wire: Wire | None = None
    try:
        async with asyncio.timeout(open_s):
            await loop.sock_connect(link, ("127.0.0.1", port))
            _, wire = await loop.create_connection(Wire, sock=link)
            offered = "voice.v1" if token is None else f"voice.v1, token.{token}"
            wire.write(_handshake(port, path, offered, headers))
            status = await asyncio.shield(wire.answered)
    except (OSError, TimeoutError):
        if wire is None:
            link.close()
        else:
            wire.drop()
        raise RefusedError(0) from None
    if status != 101:
        wire.drop()
        raise RefusedError(status)
    return wire


def _handshake(port: int, path: str, offered: str, headers: tuple[str, ...]) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {offered}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode()
