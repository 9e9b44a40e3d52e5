"""What the state machine draws from: what clients and nodes ask for, and figures that people set, small ones, so that limits are met."""

from typing import Any

from hypothesis import strategies as st

from sessions_app.domain.states import Reason

few = st.sampled_from([None, 0, 1, 1, 2, 2, 3, 4])
QUOTA: dict[str, st.SearchStrategy[Any]] = {
    "max_concurrent_sessions": few,
    "max_sessions_per_user": st.sampled_from([None, None, 0, 1, 1, 2]),
    "sessions_per_minute": st.sampled_from([None, None, None, 3, 6]),
    "user_sessions_per_minute": st.sampled_from([None, None, None, 2]),
    "burst": st.sampled_from([0, 0, 1, 2]),
    "priority": st.integers(0, 2),
    "weight": st.integers(1, 3),
    "max_queue_length": st.sampled_from([None, None, None, 0, 1, 3]),
    "max_queue_wait_s": st.sampled_from([None, 40, 90]),
    "grace_s": st.sampled_from([0, 5, 12, 30]),
}
# Of tenants whose limits were raised.
ROOMY = {
    "max_concurrent_sessions": st.sampled_from([None, 2, 3, 5]),
    "max_sessions_per_user": st.sampled_from([None, None, 1, 2]),
}
RESERVED = {"reserved": st.integers(0, 3), "reserved_backend": st.sampled_from(["", "", "b0", "b1", "gone"])}
BACKEND: dict[str, st.SearchStrategy[Any]] = {
    "cap": few,
    "weight": st.integers(0, 3),
    "burst_below": st.sampled_from([0.0, 0.5, 1.0, 1.0]),
    "draining": st.sampled_from([False, False, True]),
    "enabled": st.sampled_from([True, True, False]),
    "healthy": st.sampled_from([True, True, False]),
}
OVERRIDABLE = ["max_concurrent_sessions", "max_sessions_per_user", "sessions_per_minute", "burst", "max_queue_length"]
# How much of the queue a batch looks at: as it is, or so little that a look ends before the queue does.
LOOKS: list[dict[str, int]] = [{}, {}] + [
    {"FIRST_WAITERS": first, "QUEUES": queues, "ALL_WAITERS": 2} for first, queues in ((1, 1), (1, 2), (2, 1))
]
KINDS = [
    *["admit"] * 6, *["end"] * 3, "activate", "activate", "suspend", "suspend", "resume", "resume", "confirm", "adopt", "move", "again",
    "joined", "left",
    "twice", "briefly", "promote",
]  # fmt: skip
REASONS = [Reason.COMPLETED] * 4 + [
    Reason.CLIENT_LOST, Reason.NODE_LOST, Reason.TERMINATED, Reason.DRAINED, Reason.QUEUE_TIMEOUT, Reason.TENANT_SUSPENDED,
    Reason.CONNECTION_FAILED, Reason.MAX_DURATION, Reason.RATE_LIMIT,
]  # fmt: skip
number = st.integers(0, 59)
modest = st.sampled_from([0, 1, 7, 8, 14, 15, 4, 5])  # asks for any backend, or for one that there is
wishes = st.tuples(st.sampled_from(KINDS), number, number, st.sampled_from([False, False, False, True]))
Wish = tuple[str, int, int, bool]
