"""A token bucket: how often something may happen, with room for a burst. No clock of its own; not for several threads at once."""


class Allowance:
    """Full at first; one token for each thing that happens.

    Args:
        rate: Tokens that come back each second.
        burst: Tokens that there can be at most.
    """

    __slots__ = ("_burst", "_left", "_rate", "_seen")

    def __init__(self, *, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._seen: float | None = None

    def take(self, now: float, count: float = 1) -> bool:
        """Return whether it may happen now; ``now`` in seconds of any clock that does not go back."""
        if self._seen is not None and now > self._seen:
            self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now
        if self._left < count:
            return False
        self._left -= count
        return True
