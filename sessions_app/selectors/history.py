"""Reads of session history: filtered, newest first, in bounded pages that neither repeat nor skip a row while new ones come in.

A page is cut by key, not by offset: the id is a UUIDv7, so its order is that of time and each filter has an index that ends in it.
Attempts that were counted only (a flood's, or of callers who are not known) stand beside the page in whose time they came.

Refuses: more than ``PAGE_SIZE`` rows at once, a count of all rows, and a search that takes longer than ``LONGEST_SEARCH_MS``.
Limits: ids are made when a connect token is, so rows are ordered by that moment, up to a token's life before the attempt. A reason that
hardly ever happened has no index and may need a narrower time. Of counted attempts the newest ``MOST_SECONDS`` rows are looked at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet

from sessions_app.domain.states import LIVE_STATES, State
from sessions_app.models import Backend, Session
from tenants.models import Tenant

PAGE_SIZE: Final = 50
LONGEST_SEARCH_MS: Final = 5_000
# How far the time in an id may be from the attempt: a token's life and the difference of two clocks, generously.
_ID_SLACK: Final = timedelta(days=1)
MOST_FLOODS: Final = 20
MOST_SECONDS: Final = 20_000
_CALM_S: Final = 60  # a pause that is longer than this ends a flood

# Per-second counts as floods: those of one tenant and reason that follow each other without a long pause.
_FLOODS: Final = """
WITH counted AS (
    SELECT tenant_id, reason, second, count FROM sessions_app_attemptcount
    WHERE second >= %(since)s AND second < %(until)s AND (%(tenant)s::bigint IS NULL OR tenant_id = %(tenant)s)
        AND (%(reason)s = '' OR reason = %(reason)s)
    ORDER BY second DESC LIMIT %(most)s),
parted AS (
    SELECT *, CASE WHEN second - lag(second) OVER (PARTITION BY tenant_id, reason ORDER BY second) <= make_interval(secs => %(calm)s)
        THEN 0 ELSE 1 END AS begins FROM counted),
floods AS (SELECT *, sum(begins) OVER (PARTITION BY tenant_id, reason ORDER BY second) AS flood FROM parted)
SELECT f.tenant_id, coalesce(t.slug, ''), f.reason, sum(f.count)::bigint, min(f.second), max(f.second)
FROM floods f LEFT JOIN tenants_tenant t ON t.id = f.tenant_id
GROUP BY f.tenant_id, t.slug, f.reason, f.flood ORDER BY max(f.second) DESC, 4 DESC LIMIT %(floods)s"""
_EVER: Final = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


class SearchTooBroadError(Exception):
    """The search took too long. Narrow it: a tenant, a backend or a time helps most."""

    def __str__(self) -> str:
        return (type(self).__doc__ or "").partition("\n")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What to look for; empty means any.

    Attributes:
        tenant: Its slug.
        user: The tenant's own name for the user, all of it.
        backend: Its name.
        since: Attempts at this moment or later; aware.
        until: Attempts before this moment; aware.
    """

    tenant: str = ""
    user: str = ""
    state: str = ""
    reason: str = ""
    backend: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Sessions with their tenants and backends, newest first, and the keys of the pages beside it.

    Attributes:
        older: What to pass as ``before``, None where there are no older ones.
        newer: What to pass as ``after``, None where there are no newer ones.
        begins: The time that this page is about begins here; None: there is nothing older.
        ends: It ends before this moment; None: there is nothing newer. The page before begins where this one ends.
    """

    sessions: list[Session]
    older: UUID | None
    newer: UUID | None
    begins: datetime | None = None
    ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class Flood:
    """Attempts that were refused and counted only.

    Attributes:
        tenant: Its slug; empty where nobody knew who asked.
        first: The second in which the first ones came.
        last: The second of the last ones.
    """

    tenant: str
    reason: str
    count: int
    first: datetime
    last: datetime


def page(filters: Filters, *, before: UUID | None = None, after: UUID | None = None) -> Page:
    """Return the newest page, the one just older than ``before``, or the one just newer than ``after``.

    Raises:
        SearchTooBroadError: it took longer than ``LONGEST_SEARCH_MS``.
    """
    found = _filtered(filters)
    if found is None:
        return Page([], None, None)
    with _bounded():
        if after is not None:
            rows = list(found.filter(id__gt=after).order_by("id")[: PAGE_SIZE + 1])
            above, rows = rows[PAGE_SIZE:], rows[:PAGE_SIZE][::-1]
            older, newer = rows[-1].id if rows else None, rows[0].id if above else None
            return Page(rows, older, newer, _second(rows[-1:]), _second(above))
        if before is not None:
            found = found.filter(id__lt=before)
        rows = list(found.order_by("-id")[: PAGE_SIZE + 1])
        more, rows = len(rows) > PAGE_SIZE, rows[:PAGE_SIZE]
        above = list(Session.objects.filter(pk=before)) if before is not None else []
        return Page(
            rows,
            rows[-1].id if more else None,
            rows[0].id if rows and before is not None else None,
            _second(rows[-1:]) if more else None,
            _second(above),
        )


def floods(filters: Filters, page: Page) -> list[Flood]:
    """Return the attempts that were counted only, in the time of a page, the latest first; ``MOST_FLOODS`` at most.

    Nothing is known of their users and backends: where those are asked for, or a state other than rejected, there are none.

    Raises:
        SearchTooBroadError: it took longer than ``LONGEST_SEARCH_MS``.
    """
    if filters.user or filters.backend or filters.state not in {"", State.REJECTED.value}:
        return []
    tenant_id = Tenant.objects.filter(slug=filters.tenant).values_list("id", flat=True).first() if filters.tenant else None
    if filters.tenant and tenant_id is None:
        return []
    since = [each for each in (page.begins, filters.since) if each]
    until = [each for each in (page.ends, filters.until) if each]
    asked = {
        "since": max(since, default=_EVER[0]).replace(microsecond=0),
        "until": min(until, default=_EVER[1]),
        "tenant": tenant_id,
        "reason": filters.reason,
        "most": MOST_SECONDS,
        "calm": _CALM_S,
        "floods": MOST_FLOODS,
    }
    with _bounded(), connection.cursor() as cursor:
        cursor.execute(_FLOODS, asked)
        return [Flood(*row[1:]) for row in cursor.fetchall()]


def session(session_id: UUID) -> Session | None:
    """Return one session with its tenant and backend, or None."""
    return Session.objects.select_related("tenant", "backend").filter(pk=session_id).first()


def is_over(session_id: UUID) -> bool:
    """Whether a session has ended; also where its record is gone."""
    return not Session.objects.filter(pk=session_id, state__in=LIVE_STATES).exists()


def _filtered(filters: Filters) -> QuerySet[Session] | None:
    """Return the rows asked for, or None where there cannot be any."""
    found = Session.objects.select_related("tenant", "backend")
    # Names become ids first: only for a plain id does PostgreSQL know that the index gives the order, too.
    if filters.tenant:
        tenant_id = Tenant.objects.filter(slug=filters.tenant).values_list("id", flat=True).first()
        if tenant_id is None:
            return None
        found = found.filter(tenant_id=tenant_id)
    if filters.backend:
        backend_id = Backend.objects.filter(name=filters.backend).values_list("id", flat=True).first()
        if backend_id is None:
            return None
        found = found.filter(backend_id=backend_id)
    for name in ("user", "state", "reason"):
        if value := getattr(filters, name):
            found = found.filter(**{name: value})
    # The bound on the id lets a search in the past begin there instead of at the newest row.
    if filters.since:
        found = found.filter(attempted_at__gte=filters.since, id__gte=_first_id(filters.since - _ID_SLACK))
    if filters.until:
        found = found.filter(attempted_at__lt=filters.until, id__lt=_first_id(filters.until + _ID_SLACK))
    return found


def _second(rows: list[Session]) -> datetime | None:
    """Return the second in which a row's attempt came: counts are kept by the second."""
    return rows[0].attempted_at.replace(microsecond=0) if rows else None


def _first_id(moment: datetime) -> UUID:
    """Return the smallest UUIDv7 of a moment: its first 48 bits are milliseconds since 1970."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


@contextmanager
def _bounded() -> Iterator[None]:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(LONGEST_SEARCH_MS)])
            yield
            # A transaction around this one goes on without the limit.
            cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise SearchTooBroadError from None
        raise
