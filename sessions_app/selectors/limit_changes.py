"""Reads of the record of limits for people: who changed what, from what to what, when and why.

A value reads as people say it (no cap is "unlimited"). Refuses: to show a secret; the record itself holds no more than that it changed.
Limits: the doors tell who edits; of what was written past them only the database's user is known.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.db.models import QuerySet

from sessions_app.models import Backend, LimitChange
from tenants.models import Tenant

LAST: Final = 10
MOST_CHARS: Final = 120  # of one value; options can be long
_NOT_TOLD: Final = frozenset({"id", "tenant_id", "updated_at", "created_at"})
_UNLIMITED: Final = frozenset({
    "cap", "max_concurrent_sessions", "max_sessions_per_user", "sessions_per_minute", "user_sessions_per_minute", "max_duration_s",
    "idle_timeout_s", "max_queue_length", "max_queue_wait_s",
})  # fmt: skip
_SOURCES: Final = {
    "tenants_tenant": "tenant",
    "tenants_quota": "quota",
    "tenants_override": "override",
    "sessions_app_backend": "backend",
    "sessions_app_platform": "platform",
    "sessions_app_backendaccess": "access",
}


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field's values, as people read them; ``old`` is empty where nothing may be said of it, ``field`` where the values say it."""

    field: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.field} {self.old} → {self.new}".lstrip() if self.old else f"{self.field} {self.new}"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one row.

    Attributes:
        what: What was changed, as ``quota of acme``.
        name: The tenant's slug or the backend's name; empty for the platform.
        made: "made" or "deleted" with what there was, empty where fields were changed.
        who: The actor, or the database's user where no door named one.
        why: Empty where nobody said.
    """

    seq: int
    at: datetime
    scope: str
    what: str
    name: str
    made: str
    fields: tuple[FieldChange, ...]
    who: str
    why: str

    @property
    def told(self) -> str:
        """What was changed from what to what, on one line."""
        return self.made or "; ".join(map(str, self.fields)) or "nothing that limits anything"


def latest(*, scope: str, ref: int) -> list[Change]:
    """Return the last ``LAST`` changes of a tenant's or backend's limits, newest first."""
    return described(LimitChange.objects.filter(scope=scope, ref=ref).order_by("-seq")[:LAST])


def named(name: str) -> QuerySet[LimitChange]:
    """Return the changes of the tenant with this slug and of the backend with this name."""
    found = LimitChange.objects.none()
    for scope, ids in (
        ("tenant", Tenant.objects.filter(slug=name).values_list("pk", flat=True)),
        ("backend", Backend.objects.filter(name=name).values_list("pk", flat=True)),
    ):
        found |= LimitChange.objects.filter(scope=scope, ref__in=list(ids))
    return found


def described(rows: Iterable[LimitChange]) -> list[Change]:
    """Return the changes for people, in the order of the rows."""
    found = list(rows)
    names = {("tenant", pk): slug for pk, slug in _names(Tenant, "slug", found, "tenant")}
    names |= {("backend", pk): name for pk, name in _names(Backend, "name", found, "backend")}
    return [_describe(row, names) for row in found]


def _names(model: type[Tenant | Backend], field: str, rows: list[LimitChange], scope: str) -> list[tuple[int, str]]:
    ids = {row.ref for row in rows if row.scope == scope}
    if scope == "backend":  # that tenants may use
        ids |= {each for row in rows for side in (row.old, row.new) if isinstance(each := _values(side).get("backend_id"), int)}
    return list(model._default_manager.filter(pk__in=ids).values_list("pk", field)) if ids else []


def _describe(row: LimitChange, names: Mapping[tuple[str, int], str]) -> Change:
    old, new = _values(row.old), _values(row.new)
    either = new or old
    kind = _SOURCES.get(row.source) or _kind(row.scope, either)
    # One that is gone has its name in its own record, if that is what this is.
    name = names.get((row.scope, row.ref)) or str(either.get("slug") or either.get("name") or f"number {row.ref}")
    made = ""
    if row.old is None or row.new is None:
        content = f": {_backend(either, names)}" if kind == "access" and either else _content(kind, either)
        made = f"{'made' if row.old is None else 'deleted'}{content}"
    fields = () if made else tuple(_changed(old, new))
    if kind == "access" and not made:
        fields = (FieldChange("", _backend(old, names), _backend(new, names)),)
    why = row.note or (str(either.get("note") or "") if kind == "override" else "")
    who = row.actor or f"database user {row.db_user}"
    if row.scope == "access":
        return Change(row.seq, row.at, row.scope, "record of access", "", made, fields, who, why)
    what = "platform" if kind == "platform" else f"{kind} of {name}" if kind in {"quota", "override", "access"} else f"{kind} {name}"
    return Change(row.seq, row.at, row.scope, what, "" if kind == "platform" else name, made, fields, who, why)


def _backend(row: Mapping[str, Any], names: Mapping[tuple[str, int], str]) -> str:
    number = row.get("backend_id")
    return f"backend {names.get(('backend', number), f'number {number}') if isinstance(number, int) else number}"


def _values(recorded: Any) -> dict[str, Any]:
    return recorded if isinstance(recorded, dict) else {}


def _kind(scope: str, row: Mapping[str, Any]) -> str:
    """Tell what a record without its source is of: an older version kept none."""
    if scope != "tenant":
        return scope
    return "tenant" if "slug" in row else "override" if "ends_at" in row else "quota"


def _content(kind: str, row: Mapping[str, Any]) -> str:
    if kind == "override":
        change = row.get("change")
        number = f"{change:+d}" if isinstance(change, int) else str(change)
        return f": {number} {row.get('field')} from {_text('starts_at', row.get('starts_at'))} to {_text('ends_at', row.get('ends_at'))}"
    if kind == "quota":
        return f": max_concurrent_sessions {_text('max_concurrent_sessions', row.get('max_concurrent_sessions'))}"
    return f": cap {_text('cap', row.get('cap'))}" if kind == "backend" else ""


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[FieldChange]:
    for field in sorted((old.keys() | new.keys()) - _NOT_TOLD):
        if field == "secrets":
            yield FieldChange("secrets", "", "changed")
        elif old.get(field) != new.get(field):
            yield FieldChange(field, _text(field, old.get(field)), _text(field, new.get(field)))


def _text(field: str, value: object) -> str:
    if value is None:
        return "unlimited" if field in _UNLIMITED else "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if field.endswith("_at") and isinstance(value, str):
        return _time(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    text = text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}…"
    return text or "empty"


def _time(text: str) -> str:
    """Return a time as PostgreSQL wrote it, in UTC and to the minute."""
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text
