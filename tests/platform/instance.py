"""A real ``manage.py up`` in a process of its own, with a data folder and a port of its own."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from voiceplatform.embedded import Postgres, Valkey

PROJECT = Path(__file__).resolve().parent.parent.parent
READY_S = 90.0
LIVEKIT = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")
# What this test run uses must not be used by the instance.
OURS: tuple[str, ...] = (
    "DATABASE_URL",
    "VALKEY_URL",
    "SECRET_KEY",
    "VOICE_SECRET_KEYS",
    "VOICE_DATA_DIR",
    "PORT",
    "SERVER",
    "WEB",
    *LIVEKIT,
)


class Instance:
    """``manage.py up`` with these options; nothing runs until ``start``."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.options = options
        self.folder = folder
        self.port = int(environment.get("PORT") or free_port())
        inherited = {name: value for name, value in os.environ.items() if name not in OURS}
        self.environment = {**inherited, "VOICE_DATA_DIR": str(folder), "PORT": str(self.port), **environment}
        self.process: subprocess.Popen[bytes] | None = None
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._output = folder.parent / f"{folder.name}.{self.port}.out"

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self._output.read_text(encoding="utf-8") if self._output.exists() else ""

    def start(self) -> "Instance":
        """Start it and wait for nothing."""
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up", *self.options],
                cwd=PROJECT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self

    def start_ready(self) -> "Instance":
        """Start it and wait until it says that it is ready."""
        before = self.output.count("  ready\n")
        self.start()
        self.wait(lambda: self.output.count("  ready\n") > before, READY_S)
        return self

    def refusal(self) -> tuple[int, str]:
        """Start it, wait for its end, return the exit code and its output."""
        process = self.start().process
        assert process is not None
        return process.wait(timeout=READY_S), self.output

    def manage(self, *arguments: str) -> str:
        """Run a management command with the same two variables and return what it prints."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def status(self, path: str = "/readyz") -> int:
        """Return the HTTP status, 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def processes(self) -> list[psutil.Process]:
        """Return every process of the instance."""
        assert self.process is not None
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def child(self, *words: str) -> psutil.Process:
        """Return the direct child whose command line has all these words, each as an argument or the end of a path."""
        return next(iter(self.children(*words)))

    def children(self, *words: str) -> list[psutil.Process]:
        """Return all of them."""
        assert self.process is not None
        return [child for child in psutil.Process(self.process.pid).children() if _is_called(child, words)]

    def wait(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition; fail with the output where the instance ends or time is over."""
        assert self.process is not None
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.output}"
            assert time.monotonic() < until, f"it took longer than {seconds:.0f} s:\n{self.output}"
            wait_a_moment(self.process)

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Send a signal and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=seconds)

    def end(self) -> None:
        """Leave nothing behind, however the test went."""
        if self.process is not None and self.process.poll() is None:
            left = self.processes()
            self.process.kill()
            self.process.wait()
            assert none_left(left, 30.0)


def free_port() -> int:
    """Return a port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_a_moment(process: subprocess.Popen[bytes]) -> None:
    """Let a tick pass, less where the process ends."""
    try:
        process.wait(timeout=0.1)
    except subprocess.TimeoutExpired:
        return


def known_dead(store: Postgres | Valkey, seconds: float) -> bool:
    """Whether the store has noticed in time that its process died; a killed one is no zombie to wait for until all its threads are gone."""
    until = time.monotonic() + seconds
    while store.pid is not None:
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def none_left(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all of these have ended in time; a zombie that its new parent does not fetch has ended."""
    until = time.monotonic() + seconds
    while left := [process for process in processes if not _ended(process)]:
        if time.monotonic() > until:
            return False
        psutil.wait_procs(left, timeout=0.1)
    return True


def _is_called(process: psutil.Process, words: tuple[str, ...]) -> bool:
    try:
        # A program may have put its address behind its name.
        arguments = [each.partition(" ")[0] for each in process.cmdline()]
    except psutil.Error:  # it has just ended
        return False
    return all(any(part == word or part.endswith(f"/{word}") for part in arguments) for word in words)


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
