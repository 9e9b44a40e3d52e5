"""States of a session, the reasons they change for, and what each reason means at every door.

Owns: the one table from reason to final state, close code and HTTP status. Refuses: any transition not in ``TRANSITIONS``.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a session is in its life."""

    QUEUED = "queued"
    STARTING = "starting"
    ACTIVE = "active"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    FAILED = "failed"
    REJECTED = "rejected"
    ABANDONED = "abandoned"
    EXPIRED = "expired"


# A session in one of these is a slot; nothing else is.
SLOT_STATES: Final = frozenset({State.STARTING, State.ACTIVE, State.RECONNECTING})
LIVE_STATES: Final = SLOT_STATES | {State.QUEUED}
FINAL_STATES: Final = frozenset(State) - LIVE_STATES

# None is an attempt that has no record yet.
TRANSITIONS: Final[dict[State | None, frozenset[State]]] = {
    None: frozenset({State.REJECTED, State.QUEUED, State.STARTING}),
    State.QUEUED: frozenset({State.STARTING, State.ABANDONED, State.EXPIRED, State.REJECTED}),
    State.STARTING: frozenset({State.ACTIVE, State.RECONNECTING, State.ENDED, State.FAILED}),
    # To active again: another node has its client now.
    State.ACTIVE: frozenset({State.ACTIVE, State.RECONNECTING, State.ENDED, State.FAILED}),
    State.RECONNECTING: frozenset({State.ACTIVE, State.ENDED, State.FAILED}),
}


class Reason(StrEnum):
    """Why an attempt was refused or a session changed: one enum for messages, history, metrics and the API."""

    PLATFORM_LIMIT = "platform_limit_exceeded"
    BACKEND_LIMIT = "backend_limit_exceeded"
    SESSION_LIMIT = "session_limit_exceeded"
    USER_LIMIT = "user_limit_exceeded"
    QUEUE_FULL = "queue_full"
    RATE_LIMIT = "rate_limit_exceeded"
    QUEUE_TIMEOUT = "queue_timeout"
    AUTHENTICATION_FAILED = "authentication_failed"
    AUTHORIZATION_FAILED = "authorization_failed"
    TENANT_SUSPENDED = "tenant_suspended"
    BACKEND_UNHEALTHY = "backend_unhealthy"
    BACKEND_DRAINING = "backend_draining"
    PROVIDER_NOT_FOUND = "provider_not_found"
    INVALID_CONFIG = "invalid_config"
    NODE_DRAINING = "node_draining"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    COMPLETED = "completed"
    PROVIDER_ENDED = "provider_ended"
    CLIENT_LOST = "client_lost"
    NODE_LOST = "node_lost"
    IDLE_TIMEOUT = "idle_timeout"
    MAX_DURATION = "max_duration"
    TERMINATED = "terminated"
    DRAINED = "drained"
    CONNECTION_FAILED = "connection_failed"
    TIMEOUT = "timeout"
    PROVIDER_FAILED = "provider_failed"
    PIPELINE_ERROR = "pipeline_error"
    AGENT_ABSENT = "agent_absent"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a reason means at the doors.

    ``final`` is the state that it ends a session in, ``close`` the WebSocket close code (None: there is nobody to close),
    ``http`` the status for callers over HTTP (None: never told over HTTP), ``message`` the sentence for people.
    """

    final: State | None
    close: int | None
    http: int | None
    message: str


def _at_capacity(message: str) -> Meaning:
    return Meaning(State.REJECTED, 4429, 429, message)


def _no_backend(message: str) -> Meaning:
    return Meaning(State.REJECTED, 4503, 503, message)


MEANINGS: Final[dict[Reason, Meaning]] = {
    Reason.PLATFORM_LIMIT: _at_capacity("All lines are in use right now. Please try again in a moment."),
    Reason.BACKEND_LIMIT: _at_capacity("The voice service is at capacity right now. Please try again in a moment."),
    Reason.SESSION_LIMIT: _at_capacity("Your organisation has as many sessions as it may have at once."),
    Reason.USER_LIMIT: _at_capacity("You have as many sessions as you may have at once. End one of them first."),
    Reason.QUEUE_FULL: _at_capacity("Too many people are waiting already. Please try again later."),
    Reason.RATE_LIMIT: _at_capacity("Too many sessions were started in a short time. Please wait a little."),
    Reason.QUEUE_TIMEOUT: Meaning(State.EXPIRED, 4408, None, "Nothing became free in the time that you may wait."),
    Reason.AUTHENTICATION_FAILED: Meaning(None, 4401, 401, "The credential is missing, wrong, expired or spent."),
    Reason.AUTHORIZATION_FAILED: Meaning(State.REJECTED, 4403, 403, "You may not do this."),
    Reason.TENANT_SUSPENDED: Meaning(State.REJECTED, 4403, 403, "Your organisation's access is suspended."),
    Reason.BACKEND_UNHEALTHY: _no_backend("The voice service does not answer right now. Please try again soon."),
    Reason.BACKEND_DRAINING: _no_backend("The voice service is being maintained. Please try again soon."),
    Reason.PROVIDER_NOT_FOUND: _no_backend("No voice service is set up for this kind of session."),
    Reason.INVALID_CONFIG: _no_backend("The voice service is not set up correctly. Its operator has been told."),
    Reason.NODE_DRAINING: Meaning(State.REJECTED, 4012, 503, "This server is going down. Connect again to reach another one."),
    Reason.OVERLOADED: Meaning(State.REJECTED, 4013, 503, "Too many people are asking at once. Please try again in a moment."),
    Reason.UNAVAILABLE: Meaning(State.REJECTED, 4013, 503, "The service cannot take new sessions right now. Please try again soon."),
    Reason.COMPLETED: Meaning(State.ENDED, 1000, None, "The session is over."),
    Reason.PROVIDER_ENDED: Meaning(State.ENDED, 1000, None, "The other side hung up."),
    Reason.CLIENT_LOST: Meaning(State.ENDED, None, None, "The client went away and did not come back."),
    Reason.NODE_LOST: Meaning(State.ENDED, None, None, "The server that carried the session was lost."),
    Reason.IDLE_TIMEOUT: Meaning(State.ENDED, 4000, None, "Nothing was said for too long."),
    Reason.MAX_DURATION: Meaning(State.ENDED, 4000, None, "The session reached its longest allowed time."),
    Reason.TERMINATED: Meaning(State.ENDED, 4410, None, "An operator ended the session."),
    Reason.DRAINED: Meaning(State.ENDED, 4012, None, "The service went down for maintenance."),
    Reason.CONNECTION_FAILED: Meaning(State.FAILED, 4503, None, "The voice service could not be reached."),
    Reason.TIMEOUT: Meaning(State.FAILED, 4503, None, "The voice service took too long to answer."),
    Reason.PROVIDER_FAILED: Meaning(State.FAILED, 4503, None, "The voice service failed during the session."),
    Reason.PIPELINE_ERROR: Meaning(State.FAILED, 4503, None, "The voice pipeline failed during the session."),
    Reason.AGENT_ABSENT: Meaning(State.FAILED, 4503, None, "Nobody answered."),
}


def final_state(reason: Reason, current: State) -> State:
    """Return the state that ``reason`` ends a session in, which is in ``current`` now.

    Raises:
        ValueError: the reason ends no session, or not one in this state.
    """
    final = MEANINGS[reason].final
    if current is State.QUEUED and final in {State.ENDED, State.FAILED}:
        final = State.ABANDONED  # it never held a slot
    elif current is State.STARTING and reason is Reason.NODE_LOST:
        final = State.FAILED
    if final is None or final not in TRANSITIONS.get(current, frozenset()):
        raise ValueError(f"{reason} does not end a session that is {current}")
    return final
