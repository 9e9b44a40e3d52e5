"""What can be asked of the ledger, and what it answers. Plain values; the ledger gives them meaning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sessions_app.domain.admission import Attempt, Verdict
from sessions_app.domain.states import Reason, State


@dataclass(frozen=True, slots=True)
class Admit:
    """Start a session for this attempt if it may start now. Its session id makes asking twice harmless."""

    attempt: Attempt
    node_id: UUID
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """Give a starting session a slot on another backend than those that ``attempt.exclude`` names."""

    attempt: Attempt
    node_id: UUID


@dataclass(frozen=True, slots=True)
class Activate:
    """The provider is open: starting becomes active."""

    session_id: UUID
    node_id: UUID


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
    """The client is here: reconnecting becomes active, and a session that another node has becomes this one's."""

    session_id: UUID
    node_id: UUID


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


Operation = Admit | Move | Activate | Suspend | Resume | End


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


@dataclass(frozen=True, slots=True)
class Admitted:
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


Result = Admitted | bool
