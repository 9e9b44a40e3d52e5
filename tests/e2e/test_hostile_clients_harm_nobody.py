"""Hostile clients on real sockets: each gets the documented answer, memory stays bounded, and the honest call beside them goes on."""

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from sessions_app.models import Session
from tenants.models import Tenant
from tests.e2e.client import Call, Closed
from tests.e2e.rows import new_token, over, record, slots
from tests.e2e.server import Server, manage, wait_until

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]
FRAME = bytes(960)
LARGEST = bytes(960 * 68)  # whole frames, just below 64 KiB
MEMORY_BYTES = 150 * 1024 * 1024  # far less than what the floods send
SILENT = 200
STALLED_S = 12.0  # of speech that nobody reads: more than the system's buffers and the platform's 5 s hold


class Honest:
    """A call that talks at the pace of speech in a thread of its own, and remembers what it said and heard."""

    def __init__(self, call: Call) -> None:
        self.session_id = call.start()["session_id"]
        self._call = call
        self._quiet = threading.Event()
        self.said: list[bytes] = []
        self.heard: list[Any] = []
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._talk, self._listen)]
        for each in self._threads:
            each.start()

    def _talk(self) -> None:
        for number in cycle(range(1, 60_000)):
            if self._quiet.wait(0.02):
                return
            self.said.append(number.to_bytes(2, "big") * 480)
            self._call.say(self.said[-1])

    def _listen(self) -> None:
        while True:
            try:
                thing = self._call.hear(0.3)
            except TimeoutError:
                if self._quiet.is_set():  # and all of the echo is here
                    return
                continue
            self.heard.append(thing)
            if not isinstance(thing, bytes):
                return

    def unharmed(self) -> None:
        """It heard what it said, in order; then one more exchange and the end."""
        before = len(self.heard)
        wait_until(lambda: len(self.heard) > before + 10, 10, "more of the echo")
        self._quiet.set()
        for each in self._threads:
            each.join()
        places = {frame: place for place, frame in enumerate(self.said)}
        order = [places[frame] for frame in self.heard]
        assert order == sorted(set(order))
        assert len(order) > len(self.said) / 2
        assert record(self.session_id).state == "active"
        assert self._call.exchange([b"\x2a" * 960]) == [b"\x2a" * 960]
        self._call.stop()
        assert over(self.session_id).reason == "completed"


@pytest.fixture
def honest(dial: Dial, new_tenant: NewTenant, server: Server) -> Iterator[Honest]:
    """The call beside; that it was not harmed, and that the server's memory is bounded, is checked after each test."""
    assert server.process is not None
    memory = psutil.Process(server.process.pid).memory_info
    before = memory().rss
    call = Honest(dial(new_tenant()))
    yield call
    call.unharmed()
    assert memory().rss - before < MEMORY_BYTES
    manage("verify_capacity")


def heard(call: Call) -> tuple[Counter[str], int]:
    """Read to the close; return how often each message came (an error by its code), and the close code. Audio is passed over."""
    kinds: Counter[str] = Counter()
    while not isinstance(thing := call.hear(), Closed):
        if isinstance(thing, dict):
            kinds[thing["code"] if "code" in thing else thing["type"]] += 1
    return kinds, thing.code


def flooded(call: Call, things: Iterable[Any]) -> tuple[Counter[str], int]:
    """Send all of it as fast as it goes, or until the connection is closed, and read at the same time."""
    with ThreadPoolExecutor(1) as reader:
        answer = reader.submit(heard, call)
        with contextlib.suppress(OSError):
            for thing in things:
                call.pour(thing)
        return answer.result()


def shown_out(server: Server, kinds: Counter[str], code: int) -> None:
    """Told, ten times at most (what waits for a client is bounded), and closed with 4400; daphne may lose the last words of a flood."""
    assert set(kinds) <= {"too_fast", "pong"}
    assert (1 <= kinds["too_fast"] <= 10 and code == 4400) or (server.kind == "daphne" and code == 1006)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "null",
        "[]",
        '"session.start"',
        '{"type":7}',
        '{"type":"session.start","metadata":[]}',
        '{"type":"session.start","pipeline":5}',
        '{"type":"session.start","transport":null}',
        '{"type":"session.start","metadata":{"a":"\\u0000"}}',
        '{"type":"session.start","user":"root"}',
        '{"type":"ping","t":{"a":1}}',
        "[" * 60_000,
        '{"a":' * 10_000,
        '{"type":"session.start","metadata":' + '{"a":' * 2_000 + "1" + "}" * 2_001,
        json.dumps({"type": "session.start", "metadata": {"a": "x" * 5_000}}),
    ],
    ids=range(16),
)
def test_what_is_no_message_is_an_error_and_the_attempt_is_still_good(dial: Dial, new_tenant: NewTenant, message: str) -> None:
    call = dial(new_tenant())
    call.say(message)
    assert call.message("error")["code"] == "invalid_message"
    call.start()
    assert call.exchange([FRAME]) == [FRAME]
    call.stop()


@pytest.mark.parametrize("message", ["x" * 65_537, "ä" * 40_000, bytes(65_537), bytes(1024 * 1024)])
def test_a_message_over_64_kib_closes(honest: Honest, dial: Dial, new_tenant: NewTenant, message: str | bytes) -> None:
    tenant = new_tenant(grace_s=1)
    call = dial(tenant)
    session_id = call.start()["session_id"]
    call.say(message)
    said = call.hear()
    if isinstance(said, dict):
        assert said["code"] in {"invalid_message", "invalid_audio"}
        said = call.hear()
    assert isinstance(said, Closed)
    assert said.code in {1009, 4400}
    assert over(session_id).reason == "client_lost"
    assert slots(tenant) == 0


def test_a_flood_of_messages_is_told_too_fast_and_closed(honest: Honest, server: Server, dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(grace_s=1)
    for _ in range(3):
        call = dial(tenant)
        session_id = call.start()["session_id"]
        kinds, code = flooded(call, ({"type": "ping", "t": number} for number in range(5_000)))
        shown_out(server, kinds, code)
        assert kinds["pong"] < 500
        assert over(session_id).reason == "client_lost"


@pytest.mark.parametrize("audio", [FRAME, LARGEST])
def test_a_flood_of_audio_is_told_too_fast_and_closed(
    honest: Honest, server: Server, dial: Dial, new_tenant: NewTenant, audio: bytes
) -> None:
    tenant = new_tenant(grace_s=1)
    call = dial(tenant)
    session_id = call.start()["session_id"]
    kinds, code = flooded(call, (audio for _ in range(4_000)))  # of the largest: 260 MB
    shown_out(server, kinds, code)
    assert over(session_id).reason == "client_lost"
    assert slots(tenant) == 0


def test_audio_before_the_start_is_an_error_and_the_tenth_closes(honest: Honest, dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    call = dial(tenant)
    for _ in range(10):
        call.say(LARGEST)
    assert heard(call) == ({"audio_before_start": 10}, 4400)
    assert not Session.objects.filter(tenant=tenant).exists()


def test_sockets_that_never_speak_are_shown_out_and_leave_nothing(
    honest: Honest, server: Server, dial: Dial, new_tenant: NewTenant
) -> None:
    tenant = new_tenant()
    calls = [dial(tenant, f"user-{number}") for number in range(SILENT)]
    assert [heard(call) for call in calls] == [({"invalid_message": 1}, 4400)] * SILENT
    assert not Session.objects.filter(tenant=tenant).exists()
    assert slots(tenant) == 0


@contextlib.contextmanager
def small_socket(server: Server, tenant: Tenant) -> Iterator[Any]:
    """A connection with hardly any buffers, whose client reads when it is asked to and not before."""
    address = urlsplit(server.origin)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    raw.connect((address.hostname, address.port))
    offered = [Subprotocol("voice.v1"), Subprotocol(f"token.{new_token(tenant)}")]
    with connect(
        server.socket_url, sock=raw, subprotocols=offered, compression=None, proxy=None, max_queue=1, ping_interval=None
    ) as opened:
        yield opened


def test_a_reader_that_stops_reading_loses_the_oldest_audio_and_costs_no_memory(
    honest: Honest, server: Server, new_tenant: NewTenant
) -> None:
    tenant = new_tenant(grace_s=1)
    with small_socket(server, tenant) as stalled:
        stalled.send('{"type":"session.start"}')
        session_id = json.loads(stalled.recv())["session_id"]
        said = round(STALLED_S / 0.02)
        began = time.monotonic()
        for number in range(said):
            stalled.send(number.to_bytes(2, "big") * 480)
            time.sleep(max(0.0, began + number * 0.02 - time.monotonic()))
        stalled.send('{"type":"session.stop"}')
        assert over(session_id).reason == "completed"
    dropped = wait_until(lambda: _dropped(server, session_id), 10, "the line that tells of the end")
    assert dropped > 0
    assert slots(tenant) == 0


def _dropped(server: Server, session_id: str) -> int:
    lines = [json.loads(line) for line in server.log.read_text(encoding="utf-8").splitlines() if session_id in line]
    return sum(line.get("dropped", 0) for line in lines)
