"""uvicorn's connections with a bound on what is parsed at a time (see ``fairness``), and on what is after a WebSocket was closed."""

from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from voiceplatform.fairness import DOOR_REST, FLOOD_REST, Door, Line, Turns

LAST_BYTES: Final = 65_536  # that a client may still have on its way; uvicorn would parse ten seconds of them
_doors: Final = Line(rest=DOOR_REST)
_floods: Final = Line(rest=FLOOD_REST)


class FairHttp(H11Protocol):
    """One connection, until it is a WebSocket."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._door = Door(_doors, enter=self._enter, hold=self._hold, read_on=self._read_on)

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        self._door.take(data)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand over to the WebSocket."""
        super().handle_websocket_upgrade(event)
        self._door.end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nothing behind."""
        super().connection_lost(exc)
        self._door.end()

    def _enter(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def _hold(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()


class FairSocket(WebSocketsSansIOProtocol):
    """One WebSocket."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._after_close = 0
        self._turns = Turns(_floods, parse=self._parse, hold=self._hold, read_on=self._read_on)

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        if self.close_sent:
            self._after_close += len(data)
            if self._after_close > LAST_BYTES:
                self._turns.end()
                self.transport.abort()
                return
        self._turns.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave nothing behind, not even for the garbage collector, whose pauses everybody hears."""
        super().connection_lost(exc)
        self._turns.end()
        self.conn.parser.close()

    async def receive(self) -> Any:
        """Return the next event; read on when all are taken, unless there is more to parse."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._read_on()
        return message

    def _parse(self, data: bytes) -> None:
        if not self.disconnected:
            super().data_received(data)

    def _hold(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def _read_on(self) -> None:
        if not self.read_paused and not self._turns.waiting and not self.transport.is_closing():
            self.transport.resume_reading()
