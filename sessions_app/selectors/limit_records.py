"""The record of limits, checked: each change begins with what the one before it left, and the last one is what is in force now.

A quota, each override of it, each backend that its tenant may use, the tenant, a backend and the platform have a chain of their own.
Compared are the fields that both sides have, since a later version may add some; not compared are secrets, which are never recorded.

Pure: rows come from ``verification``, one chain after the other; one record is held at a time.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

from sessions_app.selectors.replay import Findings

NOW: Final = 2**63 - 1  # the number of what is in force now
LIMITS: Final[Mapping[str, tuple[str, ...]]] = {
    "quota": ("max_concurrent_sessions", "max_sessions_per_user", "burst", "reserved"),
    "backend": ("cap",),
    "platform": ("max_concurrent_sessions",),
}
_NOT_COMPARED: Final = frozenset({"secrets", "updated_at"})
OVERRIDE: Final = "override "
ACCESS: Final = "access "
_OF_OVERRIDE: Final = ("change", "starts_at", "ends_at")


def kind_of(alias: str) -> str:
    """Return the SQL for what a row of ``sessions_app_limitchange`` is about: rows of one scope that agree in it are one chain.

    Quota, overrides, access and tenant share the scope ``tenant``; a tenant alone has a slug, an override an end, access a backend.
    """
    row = f"coalesce({alias}.new, {alias}.old)"
    return (
        f"CASE WHEN {alias}.scope <> 'tenant' THEN {alias}.scope WHEN {row} ? 'slug' THEN 'tenant'"
        f" WHEN {row} ? 'ends_at' THEN '{OVERRIDE}' || ({row} ->> 'id')"
        f" WHEN {row} ? 'backend_id' THEN '{ACCESS}' || ({row} ->> 'id') ELSE 'quota' END"
    )


class Record(NamedTuple):
    """A ``LimitChange`` with its JSON as text, or (``seq`` is ``NOW``) the row itself as ``new``.

    ``kind`` is what the row is: quota, tenant, backend, platform, or "override" or "access" with its id.
    """

    scope: str
    ref: int
    kind: str
    seq: int
    id: int
    old: str | None
    new: str | None


def check(records: Iterable[Record], *, horizon: int, found: Findings) -> None:
    """Name what does not fit; ``records`` are in the order of their first five fields."""
    for _, chain in groupby(records, key=attrgetter("scope", "ref", "kind")):
        _check_chain(chain, horizon, found)


def _check_chain(chain: Iterable[Record], horizon: int, found: Findings) -> None:
    before: Record | None = None
    left: dict[str, Any] | None = None
    for record in chain:
        new = _read(record.new)
        if record.seq == NOW:
            if before is None:
                found.add(f"{_name(record)} has no record of its limits")
            elif wrong := _differ(left, new):
                found.add(f"{_name(record)} is not as its last record, {before.id}, left it: {wrong}")
            break
        old = _read(record.old)
        if before is not None and (wrong := _differ(left, old)):
            found.add(f"record {record.id} of {_name(record)} does not begin with what record {before.id} left: {wrong}")
        if before is None and old is not None and record.seq > horizon:
            found.add(f"the records of {_name(record)} before record {record.id} are missing")
        if new is not None:
            for field in _unreadable(record.kind, new):
                found.add(f"record {record.id} of {_name(record)} has no limit in its field {field}")
        before, left = record, new
    else:
        if before is not None and left is not None:
            found.add(f"{_name(before)} is gone, and its last record, {before.id}, does not say so")


def _read(text: str | None) -> dict[str, Any] | None:
    value = json.loads(text) if text is not None else None
    return value if isinstance(value, dict) else None


def _differ(left: dict[str, Any] | None, right: dict[str, Any] | None) -> str:
    """Return the fields that differ; empty where none does. Values are left out: some are not for everybody's eyes."""
    if left is None or right is None:
        return "" if left is right else "it was made or deleted in between"
    both = (left.keys() & right.keys()) - _NOT_COMPARED
    return ", ".join(sorted(name for name in both if left[name] != right[name] and not _same_time(name, left[name], right[name])))


def _same_time(name: str, left: object, right: object) -> bool:
    """Whether two texts are one time: each was written in the time zone of whoever made the change."""
    return name.endswith("_at") and microseconds(left) is not None and microseconds(left) == microseconds(right)


def microseconds(text: object) -> int | None:
    """Return a time of the record in microseconds since 1970; None where it is none."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return round(at.timestamp() * 1_000_000) if at is not None else None


def _unreadable(kind: str, row: Mapping[str, Any]) -> list[str]:
    if kind.startswith(OVERRIDE):
        return [each for each in _OF_OVERRIDE if microseconds(row.get(each)) is None and type(row.get(each)) is not int]
    if kind.startswith(ACCESS):
        return [] if _is_limit(row.get("backend_id", "")) and row["backend_id"] else ["backend_id"]
    wrong = ["burst_below"] if kind == "backend" and not _is_share(row.get("burst_below")) else []
    return wrong + [each for each in LIMITS.get(kind, ()) if not _is_limit(row.get(each, ""))]


def _is_limit(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _name(record: Record) -> str:
    match record.kind:
        case "quota":
            return f"the quota of tenant {record.ref}"
        case "platform":
            return "the platform"
    return f"{record.kind} of tenant {record.ref}" if record.kind.startswith((OVERRIDE, ACCESS)) else f"{record.scope} {record.ref}"
