"""What the ledger says to PostgreSQL: two calls of functions that migrations define, and the keys of the locks.

``voice_open`` takes a batch's locks in their one order and returns all that it is decided by, read under them. ``voice_write`` writes what
was decided, set-based, and raises where a compare-and-set missed a row, so that the COMMIT behind it in the pipeline does not happen. Both
take and return JSON: one parameter a list, however long. They decide nothing.

Advisory keys are ``0x766f`` (nobody else's, it is hoped), one digit for the scope, then the id. The functions and triggers of
``sessions_app.migrations`` have the same numbers, so that an edit of a limit takes the same lock.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from sessions_app.selectors.world import Rows, WaiterRow

TENANT_KEY: Final = 0x766F_1 << 44
BACKEND_KEY: Final = 0x766F_2 << 44
PLATFORM_KEY: Final = 0x766F_3 << 44

# SET LOCAL, so that a pooled connection (pgbouncer) carries nothing on. The times bound what a frozen process can hold.
SETTINGS: Final = """
SELECT set_config('voice.ledger', 'on', true), set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),
       set_config('idle_in_transaction_session_timeout', %s, true)"""
OPEN: Final = "SELECT voice_open(%s::json)::text"
LISTS: Final = (
    "sessions", "promoted", "left", "changes", "slot_changes", "waiter_changes", "events", "rates", "attempts", "counters",
)  # fmt: skip
WRITE: Final = f"SELECT voice_write(%s, %s, {', '.join(['%s::json'] * len(LISTS))})"

# A list for each column; of slots, which are nearly always there, all are None where there is none.
KnownColumns = tuple[
    list[UUID],
    list[str],
    list[UUID | None],
    list[str],
    list[int],
    list[str],
    list[int | None],
    list[str],
    list[datetime | None],
    list[dict[str, Any] | None],
]
SlotColumns = tuple[
    list[UUID] | None,
    list[int] | None,
    list[int] | None,
    list[str] | None,
    list[str] | None,
    list[UUID | None] | None,
    list[datetime | None] | None,
    list[bool] | None,
    list[int] | None,
    list[int] | None,
    list[int] | None,
    list[datetime | None] | None,
]


class Opened(msgspec.Struct):
    """What ``voice_open`` returns."""

    seq: int
    now: datetime
    locked: list[int]
    usable: list[int]
    world: Rows
    known: KnownColumns | None
    slots: SlotColumns
    own: list[WaiterRow] | None
    first: list[WaiterRow] | None


_DECODER: Final = msgspec.json.Decoder(Opened)
_ENCODER: Final = msgspec.json.Encoder()


def encode(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return it as JSON; ids and times as strings."""
    return _ENCODER.encode(value).decode()


def opened(text: str) -> Opened:
    """Read what ``voice_open`` returned."""
    return _DECODER.decode(text)
