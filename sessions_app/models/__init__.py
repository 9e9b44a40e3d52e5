"""Tables and their constraints."""

from sessions_app.models.backends import Backend, BackendAccess, BackendHealth, Platform
from sessions_app.models.capacity import Capacity, Claim, LimitChange, Node, OpeningBalance
from sessions_app.models.queue import AttemptCount, RateBucket, Waiter
from sessions_app.models.rooms import Drift, Room, WebhookEvent, WebhookRefusal
from sessions_app.models.sessions import EndRequest, Session, SessionEvent, Slot

__all__ = [
    "AttemptCount",
    "Backend",
    "BackendAccess",
    "BackendHealth",
    "Capacity",
    "Claim",
    "Drift",
    "EndRequest",
    "LimitChange",
    "Node",
    "OpeningBalance",
    "Platform",
    "RateBucket",
    "Room",
    "Session",
    "SessionEvent",
    "Slot",
    "Waiter",
    "WebhookEvent",
    "WebhookRefusal",
]
