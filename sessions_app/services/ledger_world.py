"""What a batch of the ledger is decided in: the rows of its first round trip, read into values.

Owns: the meaning of the columns of ``voice_open``; those of limits and counters are ``selectors.world``'s.
Refuses: a connection, and deciding anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sessions_app.domain.operations import BackendRef
from sessions_app.domain.states import State
from sessions_app.domain.world import Attempt, Other, Unseen
from sessions_app.selectors import world
from sessions_app.selectors.world import Scene, Waiting
from sessions_app.services.ledger_sql import Look, Opened

STATES: Final = {each.value: each for each in State}  # a look-up costs less than a call of the enum


@dataclass(slots=True)
class Held:
    """A slot as it was loaded, and as the batch has changed it since."""

    session_id: UUID
    tenant_id: int
    backend_id: int
    user: str
    state: State
    node_id: UUID | None
    loaded: State
    lease_until: datetime | None = None
    expired: bool = False
    generation: int = 1
    floor: int = 1
    stale_uses: int = 0
    dropped_at: datetime | None = None
    reason: str = ""
    pipeline: str = ""  # where a move changed it
    activated: bool = False
    over: bool = False
    told: bool = False  # the batch has events of it already


class Known(NamedTuple):
    """A session that has a record."""

    state: State
    node_id: UUID | None
    pipeline: str
    tenant_id: int
    user: str
    backend: BackendRef | None
    transport: str = ""
    active_at: datetime | None = None
    metadata: Mapping[str, object] | None = None  # only where a client comes back


Line = tuple[int, str, str, str]  # those of a tenant who ask for the same backend, pipeline and transport


@dataclass(slots=True)
class Loaded:
    """The world under the locks."""

    seq: int
    now: datetime
    scene: Scene
    known: dict[UUID, Known]  # of those that are asked for, or come back
    held: dict[UUID, Held]
    waiting: dict[UUID, Waiting]  # the batch's own, and those who may be promoted
    unlocked: bool  # a slot or waiter came between the locks and the look: its tenant is not locked
    queue: bool  # somebody waited when it was looked
    may_gain: bool  # and may be let in
    seen_to: dict[Line, tuple[datetime, int]] = field(default_factory=dict)  # of lines longer than what was looked at: the last

    def in_view(self, waiting: Waiting) -> bool:
        """Say whether everybody of its line who came before it was looked at: who is named from behind them may not overtake."""
        attempt = waiting.attempt
        last = self.seen_to.get((attempt.tenant_id, attempt.backend, attempt.pipeline, attempt.transport))
        return last is None or (waiting.since, waiting.waiter.place) <= last


def _rows(columns: Sequence[Sequence[Any] | None] | None) -> Iterable[Sequence[Any]]:
    """Turn columns into rows; without rows there are no columns, or each is None."""
    return zip(*columns, strict=True) if columns and columns[0] is not None else ()


def _held(opened: Opened) -> dict[UUID, Held]:
    every = _rows([*opened.slots, *(opened.leases or ())] if opened.slots is not None else None)
    return {row[0]: Held(row[0], row[1], row[2], row[3], STATES[row[4]], row[5], STATES[row[4]], *row[6:]) for row in every}


def loaded(opened: Opened) -> Loaded:
    """Read what ``voice_open`` returned."""
    now = opened.now
    scene = world.scene(opened.world, now=now, usable=set(opened.usable))
    look = opened.first or Look(None, None, None)
    every = [*(look.waiters or ()), *(opened.own or ())]
    seen_to: dict[Line, tuple[datetime, int]] = {row[:4]: (row[4], row[5]) for row in look.cut or ()}
    scene.world.unseen += [Unseen(_like(line), since.timestamp(), place) for line, (since, place) in seen_to.items()]
    scene.world.others += [Other(*row) for row in look.others or ()]
    scene.world.user_used.update({(row[1], row[2]): row[12] for row in every if row[12] is not None})
    waiting = {row[0]: world.waiting(row, now) for row in every}
    held = _held(opened)
    locked = set(opened.locked)
    return Loaded(
        seq=opened.seq,
        now=now,
        scene=scene,
        known={
            row[0]: Known(State(row[1]), row[2], row[3], row[4], row[5], scene.refs[row[6]] if row[6] else None, *row[7:10])
            for row in _rows(opened.known)
        },
        held=held,
        waiting=waiting,
        queue=opened.first is not None,
        may_gain=bool(look.waiters or look.cut or look.others),
        seen_to=seen_to,
        unlocked=any(each.tenant_id not in locked for each in held.values())
        or any(each.attempt.tenant_id not in locked for each in waiting.values()),
    )


def _like(line: Line) -> Attempt:
    """Return what everybody in the line asks for."""
    tenant_id, backend, pipeline, transport = line
    return Attempt(UUID(int=0), tenant_id, "", pipeline, transport, backend)
