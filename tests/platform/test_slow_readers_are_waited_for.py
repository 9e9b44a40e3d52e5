"""What a client does not read is not made: the server holds back its application, so that nothing grows without bound."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection

import pytest

from tests.platform.instance import PROJECT
from voiceplatform import processes

# The kernel's buffers of both ends, and the server's own, with room to spare. Without holding back it is gigabytes.
MOST = 64 * 1024 * 1024
STILL_S = 1.0  # who has not gone on for so long waits
PATIENCE_S = 30.0


@pytest.fixture(params=["uvicorn", "daphne"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server that pours."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "tests.platform.pouring_server", request.param, str(listener.fileno())]
        process = processes.spawn(command, folder=PROJECT, output=subprocess.DEVNULL, inherits=[listener.fileno()])
        try:
            yield listener.getsockname()[1]
            process.terminate()
            assert process.wait(timeout=15) == 0
        finally:
            processes.end(process)


def test_the_application_stops_while_the_client_does_not_read_and_goes_on_when_it_does(port: int) -> None:
    with connected(port, "/") as client:
        held_at = standstill(port)
        assert 0 < held_at < MOST
        while poured(port) < held_at + MOST:
            assert client.recv(1 << 20)


def test_a_client_that_its_application_has_given_up_is_not_kept(port: int) -> None:
    with connected(port, "/leave") as client:
        standstill(port)
        with suppress(ConnectionResetError):
            while client.recv(1 << 20):
                continue


def connected(port: int, path: str) -> socket.socket:
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", "", ""]
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    client.sendall("\r\n".join(lines).encode())
    return client


def poured(port: int) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    with closing(connection):
        connection.request("GET", "/")
        return int(connection.getresponse().read())


def standstill(port: int) -> int:
    """Return how much was poured when no more was for a while."""
    until, seen, since = time.monotonic() + PATIENCE_S, -1, 0.0
    while seen <= 0 or time.monotonic() - since < STILL_S:
        now = poured(port)
        assert now < MOST
        assert time.monotonic() < until
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.05)
    return seen
