"""Keeps child processes and stores running: starts them again with backoff, prints their lines with their name, stops them in order.

Owns: the loop, the backoff, the order of stopping, the signals of its process. Refuses: to go on when a service cannot start at all.
One thread, no threads started: children get their death signal when the thread that started them ends. What the services are is
``local``'s business.
"""

import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from voiceplatform import processes
from voiceplatform.embedded import EmbeddedError

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 30.0
STEADY_S: Final = 60.0  # who lived this long starts again with the first delay
EARLY_S: Final = 5.0  # who ends within this, never having been up, may be unable to start
EARLY_DEATHS: Final = 5  # so many in a row, and it is
_LONGEST_LINE: Final = 65_536  # bytes; a longer one is cut in two
_TICK_S: Final = 0.2
_NAME_WIDTH: Final = 6

Say = Callable[[str, str], None]


class CannotStartError(Exception):
    """A service ended again and again without ever having been up."""


class Interrupted(Exception):
    """A signal asks to stop."""


class Service(Protocol):
    """What can be kept running."""

    name: str

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    def start(self) -> None:
        """Start it; raises ``EmbeddedError`` or ``OSError`` where that fails."""

    def stop(self) -> None:
        """Stop it within bounded time."""

    def last_words(self) -> str:
        """Say how it ended."""


@dataclass
class Restarts:
    """When a service is started again: times are of the monotonic clock, in seconds."""

    started: float
    delay: float = FIRST_DELAY_S
    first_delay: float = FIRST_DELAY_S
    up: bool = False  # it has been up at some time
    early_deaths: int = 0
    start_at: float | None = None  # it is dead, and is to be started then

    def died(self, now: float) -> bool:
        """Plan the next start; False where it never was up, and this was one early death too many."""
        lived = now - self.started
        self.early_deaths = self.early_deaths + 1 if not self.up and lived < EARLY_S else 0
        if lived >= STEADY_S:
            self.delay = self.first_delay
        self.start_at = now + self.delay
        return self.early_deaths < EARLY_DEATHS

    def starts(self, now: float) -> None:
        """Note the start; the next wait is twice as long."""
        self.started, self.start_at = now, None
        self.delay = min(2 * self.delay, LONGEST_DELAY_S)


class Supervisor:
    """Runs services until a signal or until one cannot start; use it as ``with Supervisor(say).signals():``.

    Args:
        say: called with a name and a line, for each line of a child and each event here.
        first_delay_s: how long the first restart waits; each further one twice as long, up to 30 s.
    """

    def __init__(self, say: Say, *, first_delay_s: float = FIRST_DELAY_S) -> None:
        self._say = say
        self._first_delay = first_delay_s
        self._running: list[tuple[Service, Restarts]] = []
        self._stops = 0
        self._selector = selectors.DefaultSelector()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and SIGHUP as the wish to stop, and wake up for them and for the death of children."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ, lambda: len(reader.recv(4096)) > 0)
        stopping = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            stopping.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._on_stop) for number in stopping}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            reader.close()
            writer.close()

    @property
    def stops(self) -> int:
        """How often a signal asked to stop; from the second time on, patience is over."""
        return self._stops

    @property
    def running(self) -> bool:
        """Whether there is a service to stop."""
        return bool(self._running)

    def say(self, name: str, line: str) -> None:
        """Print a line; when nobody reads any more, that is a wish to stop."""
        try:
            self._say(name, line)
        except BrokenPipeError:
            self._say = lambda _name, _line: None
            self._stops += 1

    def raise_if_stopping(self) -> None:
        """Raise ``Interrupted`` once a signal has come."""
        if self._stops:
            raise Interrupted

    def add(self, service: Service) -> None:
        """Start a service and keep it running from now on; the last one added is the first one stopped."""
        self.raise_if_stopping()
        service.start()
        self._running.append((service, Restarts(time.monotonic(), self._first_delay, self._first_delay)))

    def mark_up(self, name: str) -> None:
        """Note that this service has been up: its deaths no longer end it all."""
        for service, restarts in self._running:
            if service.name == name:
                restarts.up = True

    def run(self, every_tick: Callable[[], None]) -> None:
        """Keep everything running, until a signal.

        Raises:
            CannotStartError: a service cannot start.
        """
        while not self._stops:
            self.pump(_TICK_S)
            now = time.monotonic()
            for service, restarts in self._running:
                self._tend(service, restarts, now)
            every_tick()

    def stop(self) -> None:
        """Stop all services, the last one added first."""
        while self._running:
            self._running.pop()[0].stop()

    def pump(self, seconds: float) -> None:
        """Print what children say, for this long at most; returns at the first sign of life, a signal included."""
        for key, _ in self._selector.select(seconds):
            key.data()

    def watch(self, pipe: int, on_readable: Callable[[], bool]) -> None:
        """Call this when the pipe can be read; False from it means that the pipe has ended."""

        def read() -> None:
            if not on_readable():
                self._selector.unregister(pipe)
                os.close(pipe)

        self._selector.register(pipe, selectors.EVENT_READ, read)

    def _tend(self, service: Service, restarts: Restarts, now: float) -> None:
        if restarts.start_at is None:
            if service.alive:
                restarts.up = restarts.up or now - restarts.started >= EARLY_S
                return
            if not restarts.died(now):
                raise CannotStartError(f"{service.name} cannot start: it ended {EARLY_DEATHS} times, {service.last_words()}.")
            self.say("up", f"{service.name} ended, {service.last_words()}; it is started again in {restarts.delay:.0f} s")
        elif now >= restarts.start_at:
            restarts.starts(now)
            try:
                service.start()
            except (EmbeddedError, OSError) as error:
                self.say("up", str(error))

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1


class Program:
    """A child process as a service: its lines are printed with its name.

    Args:
        name: what its lines begin with.
        command: the program's path and its arguments.
        supervisor: who reads its output.
        folder: its working directory.
        additions: variables on top of this process's environment.
        patience_s: how long it may take to end after SIGTERM.
        say: who is told its lines instead of the supervisor.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        supervisor: Supervisor,
        *,
        folder: Path,
        additions: Mapping[str, str],
        patience_s: float,
        say: Say | None = None,
    ) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.last_line = ""
        self._command = command
        self._supervisor = supervisor
        self._folder = folder
        self._additions = additions
        self._patience = patience_s
        self._say = say or supervisor.say
        self._rest = b""
        self._open_pipes = 0

    @property
    def alive(self) -> bool:
        """Whether it runs; once it does not, no process of its group does."""
        if self.process is None:
            return False
        if self.process.poll() is None:
            return True
        processes.end(self.process)
        return False

    def start(self) -> None:
        """Start it."""
        self._rest = b""
        reader, writer = os.pipe()
        try:
            self.process = processes.spawn(self._command, additions=self._additions, folder=self._folder, output=writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        self._open_pipes += 1
        self._supervisor.watch(reader, lambda: self._read(reader))

    def stop(self) -> None:
        """Ask it to end, print what it still says, and after its patience, or a second signal to us, kill it and its group."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
        until = time.monotonic() + self._patience
        while self.process.poll() is None and self._supervisor.stops < 2 and time.monotonic() < until:
            self._supervisor.pump(_TICK_S)
        processes.end(self.process)
        self.drain()

    def run(self) -> int:
        """Start it, wait for its end, and return its exit code.

        Raises:
            Interrupted: a signal asks to stop; it has been killed.
        """
        self.start()
        process = self.process
        assert process is not None
        try:
            while process.poll() is None:
                self._supervisor.pump(_TICK_S)
                self._supervisor.raise_if_stopping()
        finally:
            processes.end(process)
            self.drain()
        return process.returncode

    def drain(self) -> None:
        """Print the rest; its pipe ends now, since its whole group has, but a stray grandchild may hold it: bounded."""
        until = time.monotonic() + 1.0
        while self._open_pipes and time.monotonic() < until:
            self._supervisor.pump(_TICK_S)

    def last_words(self) -> str:
        """Say by what signal or with which code it ended."""
        code = self.process.poll() if self.process is not None else None
        if code is None:
            return "it did not start"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"with exit code {code}" + (f", after the line: {self.last_line}" if code and self.last_line else "")

    def _read(self, pipe: int) -> bool:
        chunk = os.read(pipe, _LONGEST_LINE)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if self._rest and (not chunk or len(self._rest) > _LONGEST_LINE):
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if text:
                self.last_line = text
                self._say(self.name, text)
        if not chunk:
            self._open_pipes -= 1
        return bool(chunk)


def prefixed(name: str, line: str) -> str:
    """Return a child's line as people read it."""
    return f"{name:<{_NAME_WIDTH}} | {line}"
