"""How busy the rest of the machine is: what is measured beside others' work says little about the platform."""

import os
import time
from contextlib import suppress

import psutil


class Neighbours:
    """Counts, from when it is made, the processor time that was spent on nothing of ours.

    Ours are this process and all below it. Limits: what a child of ours did that has ended meanwhile is counted as others'.
    """

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._busy = _busy_s()
        self._ours = _ours_s()

    def percent(self) -> float:
        """Return others' share of all processors together, in percent, negative errors of the clock's ticks left out."""
        seconds = (time.monotonic() - self._at) * (os.cpu_count() or 1)
        others = (_busy_s() - self._busy) - (_ours_s() - self._ours)
        return max(0.0, 100 * others / max(seconds, 1e-9))


def _busy_s() -> float:
    times = psutil.cpu_times()._asdict()
    # Guests' time is part of the users'.
    return float(sum(seconds for name, seconds in times.items() if name not in {"idle", "iowait", "guest", "guest_nice"}))


def _ours_s() -> float:
    own = psutil.Process()
    total = 0.0
    for each in (own, *own.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended
            times = each.cpu_times()
            total += times.user + times.system
    return total
