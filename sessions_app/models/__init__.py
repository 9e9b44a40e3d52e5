"""Tables and their constraints."""

from sessions_app.models.backends import Backend, BackendAccess, BackendHealth, Platform
from sessions_app.models.capacity import Capacity, Claim, LimitChange, Node, OpeningBalance
from sessions_app.models.queue import AttemptCount, RateBucket, Waiter
from sessions_app.models.sessions import EndRequest, Session, SessionEvent, Slot

__all__ = [
    "AttemptCount",
    "Backend",
    "BackendAccess",
    "BackendHealth",
    "Capacity",
    "Claim",
    "EndRequest",
    "LimitChange",
    "Node",
    "OpeningBalance",
    "Platform",
    "RateBucket",
    "Session",
    "SessionEvent",
    "Slot",
    "Waiter",
]
