"""Ends that need no decision: nobody who waits gains by them, so they are written in one round trip.

Owns: which batches these are, and their rows. Refuses: what depends on the clock (a lease that is over), and sessions that are named twice.
"""

from collections.abc import Sequence
from typing import Final, TypeGuard

from sessions_app.domain import states
from sessions_app.domain.operations import End, Operation
from sessions_app.domain.states import Reason, State
from sessions_app.services.ledger_life import text_of
from sessions_app.services.ledger_sql import encode, shared_columns


def _final(reason: Reason, current: State) -> State | None:
    try:
        return states.final_state(reason, current)
    except ValueError:
        return None


_AFTER: Final = {
    reason: tuple(_final(reason, current) for current in (State.STARTING, State.ACTIVE, State.RECONNECTING)) for reason in Reason
}


def alone(operations: Sequence[Operation]) -> TypeGuard[Sequence[End]]:
    """Say whether there is nothing but ends, each of a session of its own, and whatever the time is."""
    if not all(isinstance(each, End) and not each.expired_only for each in operations):
        return False
    return len({each.session_id for each in operations if isinstance(each, End)}) == len(operations)


def told(ends: Sequence[End]) -> str | None:
    """Return what ``voice_finish`` is told of each."""
    rows = [
        (
            each.session_id, each.node_id, each.reason, each.detail[:300], each.actor[:150],
            encode(text_of(each)) if each.detail else None, *_AFTER[each.reason],
        )
        for each in ends
    ]  # fmt: skip
    return shared_columns(rows, own={0})
