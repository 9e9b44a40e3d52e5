"""A real web server in a process of its own, on the database of this test process."""

import contextlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connection

from tests.platform.instance import PROJECT, free_port
from voiceplatform import processes

READY_S = 30.0
STOPPED_S = 15.0  # the process itself gives up after ten seconds


def wait_until(condition: Callable[[], Any], seconds: float = 10.0, what: str = "the condition") -> Any:
    """Return the first value of ``condition`` that is true; fail when there is none in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come in {seconds:g} s"
        time.sleep(0.02)
    return value


class Server:
    """``python -m voiceplatform.web``, as the product starts it; may be killed and started again, on the same port.

    Args:
        folder: Where its log goes.
        server: What serves, ``uvicorn`` or ``daphne``.
        environment: Variables on top of those of this process.

    Attributes:
        log: The file with all that it wrote, of every start.
    """

    def __init__(self, folder: Path, *, server: str = "uvicorn", **environment: str) -> None:
        self.kind = server
        self.port = free_port()
        self.log = folder / f"web-{self.port}.log"
        self.environment = {**os.environ, "DATABASE_URL": _database_url(), "PORT": str(self.port), **environment}
        self.process: subprocess.Popen[bytes] | None = None
        self.origin = f"http://127.0.0.1:{self.port}"
        self.socket_url = f"ws://127.0.0.1:{self.port}/ws/voice/"

    def start(self) -> None:
        """Start it and wait until it could admit a session."""
        self.launch()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it could admit a session."""
        wait_until(self._ready_or_dead, READY_S, "the server's readiness")

    def launch(self) -> None:
        """Start it and wait for nothing."""
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "voiceplatform.web", "--server", self.kind]
            self.process = processes.spawn(command, environment=self.environment, folder=PROJECT, output=output)

    def kill(self) -> None:
        """Kill it as the machine would: no clean-up of any kind."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=STOPPED_S)

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        if self.process is not None and self.process.poll() is None:
            processes.end(self.process, (signal.SIGTERM, 20.0))

    def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (lower case) and body."""
        channel = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(channel):
            channel.request(method, path, body=body, headers=headers or {})
            answer = channel.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def complaints(self) -> list[str]:
        """Return the lines of the log that say something is wrong with the product: errors, tracebacks, whatever is no JSON."""
        return [line for line in self.log.read_text(encoding="utf-8").splitlines() if _is_complaint(line)]

    def _ready_or_dead(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log.read_text(encoding='utf-8')}"
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False


def manage(*words: str) -> str:
    """Run a management command and return what it prints; in this process, since a new one takes longer than all the rest of a test."""
    said = io.StringIO()
    call_command(words[0], *words[1:], stdout=said)
    return said.getvalue()


def _is_complaint(line: str) -> bool:
    try:
        return json.loads(line)["level"] in {"error", "critical"}
    except (ValueError, KeyError, TypeError):
        return True


def _database_url() -> str:
    """The address of the test database of this process, which the environment does not name."""
    url = os.environ["DATABASE_URL"]
    head, mark, query = url.partition("?")
    base, _, _ = head.rpartition("/")
    return f"{base}/{connection.settings_dict['NAME']}{mark}{query}"
