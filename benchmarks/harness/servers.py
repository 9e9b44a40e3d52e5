"""A web server as the product starts it, in a process of its own, and what it takes of memory and time.

Refuses: threads or flags that the product would not use. Limits: resident memory and processor time are the operating system's figures.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.stage import PROJECT
from voiceplatform import processes

READY_S: Final = 40.0
STOP_S: Final = 20.0
SAMPLE_S: Final = 0.25
LAST_LINES: Final = 5  # of the log, shown when a benchmark fails
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment: monotonic seconds, resident MiB, processor seconds so far."""

    at: float
    rss_mb: float
    cpu_s: float


class WebServer:
    """``python -m voiceplatform.web`` on a free port; a context manager that leaves it ready.

    Args:
        folder: Where its log goes.
        server: ``uvicorn`` or ``daphne``.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        log: All that it says.
        samples: Its memory and processor time, four times a second.
    """

    def __init__(self, folder: Path, server: str = "uvicorn") -> None:
        self.server = server
        self.port = _free_port()
        self.log = folder / f"web-{server}-{self.port}.log"
        self.samples: list[Sample] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._watched: psutil.Process | None = None
        self._enough = threading.Event()
        self._sampler = threading.Thread(target=self._keep_sampling, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        environment = {**os.environ, "PORT": str(self.port), "SERVER": self.server}
        with self.log.open("ab") as output:
            self._process = processes.spawn(
                [sys.executable, "-m", "voiceplatform.web"], environment=environment, folder=PROJECT, output=output
            )
        try:
            self._await_ready()
            self._watched = psutil.Process(self._process.pid)
            self.sample()
        except BaseException:
            processes.end(self._process)
            raise
        self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._enough.set()
        self._sampler.join()
        if self._process is not None:
            processes.end(self._process, (signal.SIGTERM, STOP_S))
        if isinstance(error, BenchmarkError):
            # The folder goes away, and with it the only hint.
            sys.stderr.write("".join(f"  {self.server}: {line}\n" for line in self._lines()[-LAST_LINES:]))

    @property
    def pid(self) -> int:
        """Its process id, for a profiler."""
        return self._process.pid if self._process is not None else 0

    def sample(self) -> Sample:
        """Look at it now.

        Raises:
            BenchmarkError: It is no more.
        """
        try:
            if self._watched is None or self._process is None or self._process.poll() is not None:
                raise BenchmarkError(f"{self.server} died: {self.last_words()}")
            with self._watched.oneshot():
                times = self._watched.cpu_times()
                now = Sample(time.monotonic(), self._watched.memory_info().rss / MIB, times.user + times.system)
        except psutil.Error:
            raise BenchmarkError(f"{self.server} died: {self.last_words()}") from None
        self.samples.append(now)
        return now

    def most_rss_mb(self, since: Sample) -> float:
        """Return the most memory that it had since then, in MiB."""
        return max(each.rss_mb for each in self.samples if each.at >= since.at)

    def errors(self) -> int:
        """Return how many lines of its log are errors."""
        return sum('"level": "error"' in line or '"level": "critical"' in line or line.startswith("Traceback") for line in self._lines())

    def last_words(self) -> str:
        """Return the last line of its log."""
        return (self._lines() or ["it said nothing."])[-1]

    def _lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()

    def _keep_sampling(self) -> None:
        while not self._enough.wait(SAMPLE_S):
            try:
                self.sample()
            except BenchmarkError:
                return  # who asks next is told

    def _await_ready(self) -> None:
        until = time.monotonic() + READY_S
        while not self._ready():
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                raise BenchmarkError(f"{self.server} did not get ready within {READY_S:g} s: {self.last_words()}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        channel = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            channel.request("GET", "/readyz")
            return channel.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            channel.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
