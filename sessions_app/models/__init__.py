"""Tables and their constraints."""

from sessions_app.models.backends import Backend, BackendAccess, BackendHealth, Platform
from sessions_app.models.capacity import Capacity, Claim, LimitChange, Node
from sessions_app.models.sessions import Session, SessionEvent, Slot

__all__ = [
    "Backend",
    "BackendAccess",
    "BackendHealth",
    "Capacity",
    "Claim",
    "LimitChange",
    "Node",
    "Platform",
    "Session",
    "SessionEvent",
    "Slot",
]
