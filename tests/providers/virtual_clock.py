"""An event loop whose clock moves only when everybody waits, so that minutes of speech take milliseconds and times are exact."""

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: moves the loop's clock by the time that it should have waited for."""

    clock_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("Everybody waits and no timer is set: this would last for ever.")
        self.clock_s += timeout
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An asyncio loop on virtual time.

    Attributes:
        timers: All that were ever set.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        self.timers: list[asyncio.TimerHandle] = []
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self._jumping.clock_s

    def stall(self, seconds: float) -> None:
        """Let time pass in which nothing runs, as when the process is kept from the CPU."""
        self._jumping.clock_s += seconds

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Set the timer and remember it."""
        timer = super().call_at(when, callback, *args, context=context)
        self.timers.append(timer)
        return timer

    def timers_ahead(self) -> int:
        """Return how many timers are still to go off."""
        return sum(not timer.cancelled() and timer.when() > self.time() for timer in self.timers)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on virtual time."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(coroutine)


def running_loop() -> VirtualClockLoop:
    """Return the loop that ``run`` made."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualClockLoop)
    return loop
