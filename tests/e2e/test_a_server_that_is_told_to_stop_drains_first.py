"""SIGTERM: the server goes on serving until every client has been told, and is gone within ten seconds whatever they do."""

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessions_app.models import Node
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import new_token, over, slots
from tests.e2e.server import STOPPED_S, Server, wait_until

NewTenant = Callable[..., Tenant]
Dial = Callable[..., Call]


@pytest.fixture
def server(server_kind: str, shared_db: None, tmp_path: Path) -> Iterator[Server]:
    """A server for one test, which stops it."""
    running = Server(tmp_path, server=server_kind)
    try:
        running.start()
        yield running
    finally:
        running.end()


def told_to_stop(server: Server, number: signal.Signals = signal.SIGTERM) -> None:
    assert server.process is not None
    server.process.send_signal(number)


def ended(server: Server) -> int:
    assert server.process is not None
    return server.process.wait(timeout=STOPPED_S)


def test_until_it_is_done_it_refuses_in_words_and_is_not_ready(server: Server, dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(backend={"options": {"close_delay_ms": 2000}})
    live = dial(tenant)
    session_id = live.start()["session_id"]
    before = dial(tenant, "bob")
    told_to_stop(server)
    wait_until(lambda: server.request("GET", "/readyz")[0] == 503, 2, "the answer that it drains")
    late = dial(tenant, "late")
    assert late.message("session.rejected")["code"] == "node_draining"
    assert late.closed() == 4012
    refusal, code = before.refused()
    assert (refusal["code"], code) == ("node_draining", 4012)
    # There is no other server that could take the session.
    assert (live.message("session.ended")["reason"], live.closed()) == ("drained", 4012)
    assert ended(server) == 0
    assert over(session_id).reason == "drained"
    assert slots(tenant) == 0
    assert not Node.objects.exclude(state=Node.State.STOPPED).exists()
    assert server.complaints() == []


def test_a_socket_that_never_spoke_is_closed_too(server: Server, dial: Dial, new_tenant: NewTenant) -> None:
    silent = dial(new_tenant())
    told_to_stop(server, signal.SIGINT)
    assert silent.closed() == 4012
    assert ended(server) == 0
    assert server.complaints() == []


def test_clients_that_neither_read_nor_close_hold_nobody_up(server: Server, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    with socket.create_connection(("127.0.0.1", server.port)) as idle, socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(_handshake(server, new_token(tenant)))
        assert deaf.recv(4096).startswith(b"HTTP/1.1 101 ")
        deaf.sendall(_frame(0x1, b'{"type": "session.start"}'))
        wait_until(lambda: slots(tenant) == 1)
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127")
        # As much as may come at once; more comes back than its buffer holds, and is not read.
        for _ in range(140):
            deaf.sendall(_frame(0x2, bytes(9600)))
        told_to_stop(server)
        assert ended(server) == 0
    assert slots(tenant) == 0
    assert server.complaints() == []


def test_a_second_signal_does_not_wait(server: Server, dial: Dial, new_tenant: NewTenant) -> None:
    dial(new_tenant(backend={"options": {"hang_close": True}})).start()
    told_to_stop(server)
    wait_until(lambda: server.request("GET", "/readyz")[0] == 503, 2, "the answer that it drains")
    told_to_stop(server)
    assert ended(server) == 1


def _handshake(server: Server, token: str) -> bytes:
    lines = [
        "GET /ws/voice/ HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        f"Sec-WebSocket-Protocol: voice.v1, token.{token}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _frame(opcode: int, payload: bytes) -> bytes:
    """A frame as a client sends it, its mask all zero."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2)
    return bytes([0x80 | opcode]) + size + bytes(4) + payload
