"""What the ledger says to PostgreSQL: calls of functions that migrations define, and the keys of the locks.

``voice_open`` takes a batch's locks in their one order and returns all that it is decided by, read under them. ``voice_write`` writes what
was decided, set-based, and raises where a compare-and-set missed a row, so that the COMMIT behind it in the pipeline does not happen.
``voice_finish`` ends sessions where nothing is to be decided. They decide nothing: also which state an end leads to is told them. What is
answered is JSON; what is asked, and rows to be written, come as arrays, which PostgreSQL reads in half the time.

Advisory keys are ``0x766f`` (nobody else's, it is hoped), one digit for the scope, then the id. The functions and triggers of
``sessions_app.migrations`` have the same numbers, so that an edit of a limit takes the same lock.
"""

from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from sessions_app.selectors.world import Rows, WaiterRow

TENANT_KEY: Final = 0x766F_1 << 44
BACKEND_KEY: Final = 0x766F_2 << 44
PLATFORM_KEY: Final = 0x766F_3 << 44

LISTS: Final = (
    "ended", "sessions", "promoted", "left", "changes", "slot_changes", "waiter_changes", "events", "ended_late", "rates", "attempts",
    "counters",
)  # fmt: skip
# Local to the transaction, so that a pooled connection (pgbouncer) carries nothing on. The times bound what a frozen process can hold.
_SETTINGS: Final = """
SELECT set_config('voice.ledger', 'on', true), set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true),
       set_config('idle_in_transaction_session_timeout', $3, true)"""
STATEMENTS: Final = {
    "BEGIN": "BEGIN",
    "COMMIT": "COMMIT",
    "ROLLBACK": "ROLLBACK",
    "voice_settings": _SETTINGS,
    "voice_settings_of_many": f"{_SETTINGS}, set_config('synchronous_commit', 'off', true)",
    "voice_open": "SELECT voice_open($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)::text",
    "voice_write": f"SELECT voice_write($1, $2, {', '.join(f'${i}::text[]' for i in range(3, 3 + len(LISTS)))})",
    "voice_finish": "SELECT voice_finish($1)::text",
    # A transaction that writes next to nothing, but is on disk when it is answered, and so is all that was committed before it.
    "voice_durable": "SELECT pg_logical_emit_message(true, 'voice', '')",
}

# A list for each column; of slots and their leases, each is None where there is no slot.
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
    list[UUID] | None, list[int] | None, list[int] | None, list[str] | None, list[str] | None, list[UUID | None] | None
]  # fmt: skip
LeaseColumns = tuple[
    list[datetime | None] | None,
    list[bool] | None,
    list[int] | None,
    list[int] | None,
    list[int] | None,
    list[datetime | None] | None,
]


class Look(msgspec.Struct):
    """What was seen of the queue: the first of each line, the lines that go on behind them, and whether tenants were left out.

    Attributes:
        cut: Tenant, backend, pipeline and transport asked for, and the last that was looked at.
        others: A tenant that was not looked at, a backend that it has somebody for, and whether it needs a burst there.
    """

    waiters: list[WaiterRow] | None
    cut: list[tuple[int, str, str, str, datetime, int]] | None
    others: list[tuple[int, int, bool]] | None


class Opened(msgspec.Struct):
    """What ``voice_open`` returns."""

    seq: int
    now: datetime
    locked: list[int]
    usable: list[int]
    world: Rows
    known: KnownColumns | None
    slots: SlotColumns | None
    leases: LeaseColumns | None
    own: list[WaiterRow] | None
    first: Look | None


_DECODER: Final = msgspec.json.Decoder(Opened)
_IDS: Final = msgspec.json.Decoder(frozenset[UUID])
_ENCODER: Final = msgspec.json.Encoder()


def encode(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return it as JSON; ids and times as strings."""
    return _ENCODER.encode(value).decode()


def columns(rows: Sequence[Sequence[Any]]) -> str | None:
    """Return rows as the functions take them, PostgreSQL's text of an array of arrays, each as text; None where there are none."""
    return "{" + ",".join([_quoted(array(each)) for each in zip(*rows, strict=True)]) + "}" if rows else None


def shared_columns(rows: Sequence[Sequence[Any]], *, own: Container[int] = (), nested: Container[int] = ()) -> str | None:
    """Return rows as ``columns`` does, with one array more, of text: what is the same in every row is there, and its own column null.

    Args:
        rows: Each with the same columns.
        own: Numbers of columns, from 0, that are arrays in any case.
        nested: Of columns that are JSON, in one array of JSON.
    """
    if not rows:
        return None
    found: list[str] = []
    shared: list[str | None] = []
    for number, column in enumerate(zip(*rows, strict=True)):
        first = column[0]
        if number in nested:
            found.append(_quoted(encode(column)))
            shared.append(None)
        elif number not in own and column.count(first) == len(column):
            found.append("null")
            shared.append(None if first is None else str(first))
        else:
            found.append(_quoted(array(column)))
            shared.append(None)
    return "{" + ",".join([*found, _quoted(array(shared))]) + "}"


def array(values: Sequence[Any]) -> str:
    """Return PostgreSQL's text of an array of numbers, ids, times or strings."""
    text = encode(values)
    # JSON writes a list as PostgreSQL does, but for the brackets, and for what a backslash means that stands before anything but a quote.
    if "\\" in text and text.count("\\") != text.count('\\"'):
        text = f"[{','.join(['null' if each is None else _quoted(each) for each in values])}]"
    return "{" + text[1:-1] + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def opened(text: bytes) -> Opened:
    """Read what ``voice_open`` returned."""
    return _DECODER.decode(text)


def finished(text: bytes) -> frozenset[UUID]:
    """Read what ``voice_finish`` returned: the sessions that it ended."""
    return _IDS.decode(text)
