"""daphne, as this project runs it: as careful as uvicorn is, with what daphne leaves to its user done here.

Owns: daphne's options and listening socket, the node's start (daphne has no lifespan), backpressure on slow readers, the close of sockets
whose consumer has left, and draining before it shuts down. Twisted's reactor runs on uvloop.
Limits, which are daphne's own: it can close with 1000 and 3000 to 4999 only, and refuses a WebSocket over HTTP with 403 only.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

import uvloop
from twisted.internet import asyncioreactor

# Before daphne is imported, which would install the reactor on a loop of its own making.
_loop: Final = uvloop.new_event_loop()
asyncioreactor.install(_loop)  # type: ignore[no-untyped-call]

from daphne.server import Server as DaphneServer  # noqa: E402
from daphne.ws_protocol import WebSocketProtocol  # noqa: E402
from twisted.internet import reactor as _reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402
from twisted.logger import STDLibLogObserver, globalLogPublisher  # noqa: E402

from voiceplatform import asgi  # noqa: E402
from voiceplatform.fairness import DOOR_REST, FLOOD_REST, Door, Line, Turns  # noqa: E402
from voiceplatform.stopping import Stop  # noqa: E402

LARGEST_MESSAGE: Final = 65_536  # bytes of one WebSocket message
HANDSHAKE_S: Final = 5
PING_S: Final = 20
# Less than the time between two pings: a second one would forget the first.
PONG_S: Final = 15
GOODBYE_S: Final = 0.5
# For a client that is slow: who is cut while its answer is on the way loses what it has not read yet.
CLOSING_S: Final = 5
_doors: Final = Line(rest=DOOR_REST)
_floods: Final = Line(rest=FLOOD_REST)

reactor: Any = _reactor


def serve(listener: socket.socket, ready: Callable[[], None]) -> bool:
    """Serve until a signal.

    Args:
        listener: where connections come from.
        ready: called once they are served.

    Returns:
        Whether there was time to stop in order.
    """
    server = _Server(listener, ready)
    server.run()
    _end_loop()
    return not server.stop_wish.hurried


def _end_loop() -> None:
    """End what still runs on the loop, and the loop."""
    left = asyncio.all_tasks(_loop)
    for task in left:
        task.cancel()
    _loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    _loop.run_until_complete(_loop.shutdown_asyncgens())
    _loop.run_until_complete(_loop.shutdown_default_executor())
    _loop.close()


class _Gate:
    """Closed while a WebSocket's client does not read: a producer, in Twisted's words, which it pauses when more than 64 KiB wait."""

    def __init__(self, transport: Any) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open = asyncio.Event()
        self._open.set()
        self._transport = transport
        # Until now it was the producer of the HTTP connection, which has nothing to say any more.
        transport.unregisterProducer()
        transport.registerProducer(self, True)

    async def passed(self) -> None:
        """Wait until it is open."""
        await self._open.wait()

    def pauseProducing(self) -> None:
        self._open.clear()

    def resumeProducing(self) -> None:
        self._open.set()
        if self._transport.disconnecting:
            # It waits for its producer before it closes.
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        self._open.set()
        if not self.lost.done():
            self.lost.set_result(None)


class _Server(DaphneServer):  # type: ignore[misc]  # daphne has no types
    def __init__(self, listener: socket.socket, ready: Callable[[], None]) -> None:
        super().__init__(
            application=asgi.application,
            endpoints=["inherited"],
            signal_handlers=False,
            ready_callable=self._begin,
            websocket_timeout=-1,  # how long a session may last is its quota's matter
            websocket_connect_timeout=HANDSHAKE_S,
            websocket_handshake_timeout=HANDSHAKE_S,
            websocket_max_message_size=LARGEST_MESSAGE,
            websocket_max_frame_size=LARGEST_MESSAGE,
            ping_interval=PING_S,
            ping_timeout=PONG_S,
        )
        # It takes a description of where to listen, which cannot name a socket of any family that is open already.
        self.endpoints: list[str] = []
        self.stop_wish = Stop(reactor.stop)
        self._listener = listener
        self._ready = ready
        self._gates: dict[Any, _Gate] = {}

    def _begin(self) -> None:
        """Called by daphne before the reactor runs, which is the last moment to prepare for it."""
        # Who sends too much or breaks the protocol is told by a close code, and nothing more of theirs is kept.
        self.ws_factory.setProtocolOptions(failByDrop=False, closeHandshakeTimeout=CLOSING_S)
        # daphne sends Twisted's log nowhere; what Twisted caught must be known.
        logging.getLogger("twisted").setLevel(logging.ERROR)
        told: Any = STDLibLogObserver("twisted")
        globalLogPublisher.addObserver(told)
        self.http_factory.buildProtocol = _at_the_door(self.http_factory.buildProtocol)
        self.stop_wish.listen(_loop)
        _loop.create_task(self._start())

    async def _start(self) -> None:
        await asgi.start()
        reactor.adoptStreamPort(self._listener.fileno(), self._listener.family, self.http_factory)
        self._ready()

    # --- one connection ----------------------------------------------------------------------------------------------------
    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Put a gate before what is sent to a WebSocket, and see to it that it does not outlive its consumer."""
        if isinstance(protocol, WebSocketProtocol):
            self._gates[protocol] = _Gate(protocol.transport)
            _take_turns(protocol)
        queue = super().create_application(protocol, scope)
        instance = self.connections.get(protocol, {}).get("application_instance")
        if instance is not None and protocol in self._gates:
            instance.add_done_callback(lambda task: _close_after(protocol, task))
        return queue

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Send, and come back when there is room for more."""
        await super().handle_reply(protocol, message)
        gate = self._gates.get(protocol)
        if gate is not None:
            await gate.passed()

    def protocol_disconnected(self, protocol: Any) -> None:
        """Forget its gate, and let go who waits there."""
        super().protocol_disconnected(protocol)
        gate = self._gates.pop(protocol, None)
        if gate is not None:
            gate.stopProducing()
            # Otherwise they keep each other in memory until the garbage collector comes, whose pauses everybody hears.
            del protocol.dataReceived

    # --- the end -------------------------------------------------------------------------------------------------------------
    def kill_all_applications(self) -> Any:
        """Called by the reactor before it shuts down, which waits for it: drain first, while all is served as before."""
        return Deferred.fromFuture(asyncio.ensure_future(self._leave()))

    async def _leave(self) -> None:
        await self.stop_wish.unless_hurried(asgi.drain())
        if not self.stop_wish.hurried and self._gates:
            # The closing handshakes, without which the reactor would cut what is still on its way.
            await asyncio.wait([gate.lost for gate in self._gates.values()], timeout=GOODBYE_S)


def _at_the_door(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what builds a connection's HTTP protocol so that it lets in what comes by a line, see ``fairness``."""

    def build_protocol(address: Any) -> Any:
        protocol = build(address)
        enter = protocol.dataReceived

        def transport() -> Any:
            return protocol._channel.transport

        def enter_if_there(data: bytes) -> None:
            if transport().connected:
                enter(data)
            if transport().protocol is not protocol:
                door.end()  # it is a WebSocket now

        door = Door(_doors, enter=enter_if_there, hold=lambda: _hold(transport()), read_on=lambda: _read_on(transport()))
        protocol.dataReceived = door.take
        return protocol

    return build_protocol


def _take_turns(protocol: Any) -> None:
    """Bound what is parsed of a WebSocket at a time, see ``fairness``."""
    transport, parse = protocol.transport, protocol.dataReceived

    def parse_if_there(data: bytes) -> None:
        if transport.connected:
            parse(data)

    turns = Turns(_floods, parse=parse_if_there, hold=lambda: _hold(transport), read_on=lambda: _read_on(transport))
    protocol.dataReceived = turns.take


def _hold(transport: Any) -> None:
    if transport.connected and not transport.disconnecting:
        transport.pauseProducing()


def _read_on(transport: Any) -> None:
    if transport.connected and not transport.disconnecting:
        transport.resumeProducing()


def _close_after(protocol: Any, task: "asyncio.Task[Any]") -> None:
    """Drop a connection whose consumer left it open, since its client did not read: daphne would keep it, and all that it sends."""
    if not task.cancelled() and task.exception() is not None:
        return  # daphne logs it, and closes
    if protocol.state == protocol.STATE_OPEN:
        protocol.dropConnection(abort=True)
