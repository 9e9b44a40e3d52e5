"""Keeps child processes and stores running: starts them again with backoff, prints their lines with their name, stops them in order.

Owns: the loop, the backoff, the order of stopping, the signals of its process. Refuses: to go on when a service cannot start at all:
when it ended again and again and was never up. Up is who said so, or, of those that do not say, who lived a few seconds.
One thread, no threads started: children get their death signal when the thread that started them ends. What the services are is
``local``'s business.
"""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, Protocol

from voiceplatform.embedded import EmbeddedError

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 30.0
STEADY_S: Final = 60.0  # who lived this long starts again with the first delay
EARLY_S: Final = 5.0  # who lived this long is up, unless it is one that tells by itself
EARLY_DEATHS: Final = 5  # so many in a row of one that was never up, and it is unable to start
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
    tells_when_up: bool  # by ``Supervisor.mark_up``

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    def start(self) -> None:
        """Start it; raises ``EmbeddedError`` or ``OSError`` where that fails."""

    def ask_to_stop(self) -> None:
        """Tell it to end, where that can be said without waiting."""

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
    tells_when_up: bool = False
    up: bool = False  # it has been up at some time
    early_deaths: int = 0
    start_at: float | None = None  # it is dead, and is to be started then

    def lives(self, now: float) -> None:
        """Note that it is alive: after a while that is up, but of one that tells."""
        self.up = self.up or (not self.tells_when_up and now - self.started >= EARLY_S)

    def died(self, now: float) -> bool:
        """Plan the next start; False where it never was up, and this was one early death too many."""
        lived = now - self.started
        early = not self.up and (self.tells_when_up or lived < EARLY_S)
        self.early_deaths = self.early_deaths + 1 if early else 0
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
        self._running: list[list[tuple[Service, Restarts]]] = []  # in groups that stop together
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
        return any(self._running)

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

    def add(self, *services: Service) -> None:
        """Start services and keep them running from now on; they stop together, and before all that were added earlier."""
        group: list[tuple[Service, Restarts]] = []
        self._running.append(group)
        for service in services:
            self.raise_if_stopping()
            service.start()
            restarts = Restarts(time.monotonic(), self._first_delay, self._first_delay, tells_when_up=service.tells_when_up)
            group.append((service, restarts))

    def mark_up(self, name: str) -> None:
        """Note that this service has been up: its deaths no longer end it all."""
        for service, restarts in self._all():
            if service.name == name:
                restarts.up = True

    def missing(self, *names: str) -> list[str]:
        """Return which of these services are not up, as far as is known."""
        up = {service.name for service, restarts in self._all() if restarts.up and restarts.start_at is None}
        return [name for name in names if name not in up]

    def run(self, every_tick: Callable[[], None]) -> None:
        """Keep everything running, until a signal.

        Raises:
            CannotStartError: a service cannot start.
        """
        while not self._stops:
            self.pump(_TICK_S)
            now = time.monotonic()
            for service, restarts in self._all():
                self._tend(service, restarts, now)
            every_tick()

    def stop(self) -> None:
        """Stop all services, the last ones added first; those that were added together are all told before one is waited for."""
        while self._running:
            group = self._running.pop()
            for service, _ in group:
                service.ask_to_stop()
            for service, _ in reversed(group):
                service.stop()

    def _all(self) -> list[tuple[Service, Restarts]]:
        return [each for group in self._running for each in group]

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
                restarts.lives(now)
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


def prefixed(name: str, line: str) -> str:
    """Return a child's line as people read it."""
    return f"{name:<{_NAME_WIDTH}} | {line}"
