"""How many sessions may begin in a minute: token buckets whose contents the caller keeps.

Owns: refill, spending, and the time until the next token. A bucket holds one minute's worth at most and is full when it is new; an
edit of the figure acts at once, also on what has come back since the last session. Only spending changes a bucket, so what is refused
writes nothing and no rounding adds up. Refuses to read a clock: ``now`` is an argument, in seconds, of the clock that set ``at``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

MINUTE_S: Final = 60.0
# A token that is short by less than this is one: sums of floats come out that much below. What is lent stays owed.
_GRAIN: Final = 1e-6

RateKey = tuple[Literal["tenant"], int] | tuple[Literal["user"], int, str]


@dataclass(slots=True)
class Bucket:
    """``tokens`` that were left at ``at`` seconds."""

    tokens: float
    at: float


@dataclass(frozen=True, slots=True)
class Shortage:
    """A rate that is used up, and the whole seconds until it is not (None: never, the rate is 0)."""

    key: RateKey
    wait_s: int | None


def tokens(bucket: Bucket | None, per_minute: int, now: float) -> float:
    """Return what is in the bucket now; None is a new one."""
    if bucket is None:
        return float(per_minute)
    there = bucket.tokens + (now - bucket.at) * per_minute / MINUTE_S if now > bucket.at else bucket.tokens
    return there if there < per_minute else float(per_minute)


def take(buckets: dict[RateKey, Bucket], wanted: Iterable[tuple[RateKey, int]], now: float) -> Shortage | None:
    """Take a token of each rate in ``wanted`` (key and sessions a minute), or of none where one is used up.

    Return the one of these that lasts longest without a token, if any is without.
    """
    worst: Shortage | None = None
    left = []
    for key, per_minute in wanted:
        bucket = buckets.get(key)
        there = tokens(bucket, per_minute, now)
        missing = 1 - there
        if missing <= _GRAIN:
            left.append((key, bucket, there - 1))
            continue
        wait_s = max(1, ceil((missing - _GRAIN) * MINUTE_S / per_minute)) if per_minute else None
        if worst is None or wait_s is None or (worst.wait_s is not None and wait_s > worst.wait_s):
            worst = Shortage(key, wait_s)
    if worst is None:
        for key, bucket, rest in left:
            if bucket is None:
                buckets[key] = Bucket(rest, now)
            else:
                # A clock that went back must not give the same seconds twice.
                bucket.tokens, bucket.at = rest, max(bucket.at, now)
    return worst
