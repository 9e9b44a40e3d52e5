"""What can be asked of the ledger, and what it answers. Plain values; the ledger gives them meaning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import msgspec

from sessions_app.domain.admission import Verdict
from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Attempt


@dataclass(frozen=True, slots=True)
class Admit:
    """Start a session for this attempt if it may start now. Its session id makes asking twice harmless."""

    attempt: Attempt
    node_id: UUID
    metadata: Mapping[str, object] = field(default_factory=dict)
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Move:
    """Give a session of this node a slot on another backend than those that ``attempt.exclude`` names: the one that it had did not open.

    ``node_id`` None moves one that lives in a room, by whoever looks after it, also while it is active.
    """

    attempt: Attempt
    node_id: UUID | None


@dataclass(frozen=True, slots=True)
class Activate:
    """The provider is open: starting becomes active."""

    session_id: UUID
    node_id: UUID


@dataclass(frozen=True, slots=True)
class Joined:
    """The provider has the user in the session's room: starting or reconnecting becomes active, whichever node had the session."""

    session_id: UUID


@dataclass(frozen=True, slots=True)
class Left:
    """The provider has the user in the session's room no more: active becomes reconnecting, for the grace of its tenant's quota."""

    session_id: UUID


@dataclass(frozen=True, slots=True)
class Suspend:
    """The client is gone for now: active becomes reconnecting, for the grace of its tenant's quota.

    The grace counts from ``since`` (None: now), and is ``longest_s`` seconds at most (None: the quota's).
    """

    session_id: UUID
    node_id: UUID
    reason: Reason = Reason.CLIENT_LOST
    since: datetime | None = None
    longest_s: float | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """The client is here, on this node, with a new connection; whichever node had the session has it no more.

    ``shown`` is the number of the resume token that it showed; None where it showed the connect token.
    """

    session_id: UUID
    node_id: UUID
    tenant_id: int
    user: str
    shown: int | None = None


@dataclass(frozen=True, slots=True)
class Confirm:
    """The connection with this number has sent a frame: the resume tokens before its own are good no more."""

    session_id: UUID
    node_id: UUID
    generation: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """The node ``was`` goes on as ``node_id`` and still has this session, its client being there; nobody else has taken it."""

    session_id: UUID
    node_id: UUID
    was: UUID
    generation: int


@dataclass(frozen=True, slots=True)
class End:
    """The session is over, for this reason; its slot is free. ``actor`` names the person who asked, where one did.

    ``expired_only`` ends it only while its lease is over, and ``node_id`` only while it is on that node: for those who looked without
    the locks.
    """

    session_id: UUID
    reason: Reason
    detail: str = ""
    actor: str = ""
    expired_only: bool = False
    node_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Promote:
    """Let in whoever waits and may start now: after an edit, or a backend's recovery, when no session's end does it."""


Step = Activate | Joined | Left | Suspend | Confirm | Adopt | End
Operation = Admit | Move | Resume | Promote | Step


@dataclass(frozen=True, slots=True)
class Policy:
    """What the tenant's quota says of a session's life, in seconds. None: unlimited."""

    max_duration_s: int | None
    idle_timeout_s: int | None
    grace_s: int


@dataclass(frozen=True, slots=True)
class BackendRef:
    """Which backend a session is on."""

    id: int
    name: str
    provider: str


class Admitted(msgspec.Struct, frozen=True):
    """The answer to ``Admit`` and ``Move``.

    ``attached``: the session waits or lives already, on ``node_id``. ``spent``: it is over; its credential is good for nothing.
    """

    session_id: UUID
    verdict: Verdict
    state: State | None = None
    node_id: UUID | None = None
    backend: BackendRef | None = None
    pipeline: str = ""
    policy: Policy = Policy(None, None, 0)
    attached: bool = False
    spent: bool = False
    max_wait_s: int | None = None  # in the queue


@dataclass(frozen=True, slots=True)
class Resumed:
    """The answer to ``Resume``; with ``refused`` set the rest says nothing.

    ``generation`` is the number of the new connection, ``floor`` of the oldest resume token that is good. ``gap_ms`` is how long the
    client was away and ``active_s`` how long ago the session became active, both by the database's clock.
    """

    session_id: UUID
    refused: Reason | None = None
    generation: int = 1
    floor: int = 1
    state: State | None = None
    backend: BackendRef | None = None
    pipeline: str = ""
    transport: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)
    policy: Policy = Policy(None, None, 0)
    gap_ms: int = 0
    active_s: float = 0.0
    wanted_backend: str = ""  # while it waits: the one that it asked for
    waited_s: float = 0.0
    max_wait_s: int | None = None


@dataclass(frozen=True, slots=True)
class Promoted:
    """Somebody who waited has a slot now: whichever batch gave it, their node is to be told."""

    session_id: UUID
    node_id: UUID | None
    admitted: Admitted


Result = Admitted | Resumed | bool
