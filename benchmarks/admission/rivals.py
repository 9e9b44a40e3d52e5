"""Rivals on PostgreSQL, each as good as its authors would write it, on tables of their own beside the product's.

(a) ``CountThenInsert`` counts and inserts, with nothing that keeps another from doing so meanwhile. (b) ``RowLock`` locks the capacity rows
of tenant, backend and platform (the hottest last), counts, inserts. (c) ``Orm`` is (b) in Django's words. All hold the caps of platform,
backend, tenant and user; an end marks the session's row. Their connections prepare statements; the rows of what is over are cleared
and vacuumed between blocks, so that nobody pays for another block's dead rows.

Limits: (b) and (c) keep no history of refusals, no limit vectors, no rates: they do less than what they are compared with.
"""

from typing import Any, ClassVar, Final
from uuid import UUID

import psycopg
import uuid_utils.compat
from django.db import connections, models, transaction
from django.db.models import Count, Q
from django.utils import timezone

from benchmarks.admission.setting import USER_LIMIT

BACKEND: Final = 1
ALIAS: Final = "rival"
PREPARED: Final = {"prepare_threshold": 0, "server_side_binding": True}

TABLES: Final = """
CREATE TABLE rival_capacity (id bigint PRIMARY KEY, "limit" integer NOT NULL);
CREATE TABLE rival_session (id uuid PRIMARY KEY, tenant_id bigint NOT NULL, backend_id bigint NOT NULL, "user" text NOT NULL,
                            started_at timestamptz NOT NULL DEFAULT clock_timestamp(), ended_at timestamptz);
CREATE INDEX rival_live ON rival_session (tenant_id, "user") WHERE ended_at IS NULL;
"""
CLEAR: Final = ("TRUNCATE rival_session", "VACUUM ANALYZE rival_session", "VACUUM rival_capacity")

# Everything that lives is in a small partial index: one statement counts for every scope.
_COUNT: Final = """
SELECT count(*), count(*) FILTER (WHERE backend_id = 1), count(*) FILTER (WHERE tenant_id = %(tenant)s),
       count(*) FILTER (WHERE tenant_id = %(tenant)s AND "user" = %(user)s) FROM rival_session WHERE ended_at IS NULL"""
_LIMITS: Final = 'SELECT "limit" FROM rival_capacity WHERE id IN (%(tenant)s, -1, -2) ORDER BY id DESC'
_INSERT: Final = 'INSERT INTO rival_session (id, tenant_id, backend_id, "user") VALUES (%(id)s, %(tenant)s, 1, %(user)s)'
_END: Final = "UPDATE rival_session SET ended_at = clock_timestamp() WHERE id = %(id)s AND ended_at IS NULL"


def capacity_rows(tenants: dict[int, int], *, cap: int) -> list[tuple[int, int]]:
    """Return the rows of ``rival_capacity``: a tenant's has its id, the backend's -1, the platform's -2."""
    return [*tenants.items(), (-1, cap), (-2, cap)]


class CountThenInsert:
    """(a): two statements in autocommit."""

    def __init__(self, url: str) -> None:
        self.connection: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True, prepare_threshold=0)

    def admit(self, tenant: int, user: str) -> UUID | None:
        """Count, and insert where there was room."""
        return self._count_and_insert(tenant, user, _LIMITS)

    def release(self, slot: object) -> None:
        """Mark the end."""
        self.connection.execute(_END, {"id": slot})

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _count_and_insert(self, tenant: int, user: str, limits: str) -> UUID | None:
        execute = self.connection.execute
        who = {"tenant": tenant, "user": user}
        allowed = [row[0] for row in execute(limits, who).fetchall()]
        everywhere, backend, own, users = execute(_COUNT, who).fetchall()[0]
        if own >= allowed[0] or backend >= allowed[1] or everywhere >= allowed[2] or users >= USER_LIMIT:
            return None
        slot = uuid_utils.compat.uuid7()
        execute(_INSERT, {**who, "id": slot})
        return slot


class RowLock(CountThenInsert):
    """(b): the same in a transaction that locks the three rows first."""

    def admit(self, tenant: int, user: str) -> UUID | None:
        """Lock, count, insert."""
        with self.connection.transaction():
            return self._count_and_insert(tenant, user, f"{_LIMITS} FOR UPDATE")


# --- Django -------------------------------------------------------------------------------------------------------------------
class Capacity(models.Model):  # noqa: DJ008 - nobody sees it
    """A row that is locked."""

    id = models.BigIntegerField(primary_key=True)
    limit = models.IntegerField()
    objects: ClassVar[models.Manager["Capacity"]] = models.Manager()

    class Meta:
        app_label = "rival"
        managed = False
        db_table = "rival_capacity"


class Session(models.Model):  # noqa: DJ008 - nobody sees it
    """A session; it lives while ``ended_at`` is empty."""

    id = models.UUIDField(primary_key=True, default=uuid_utils.compat.uuid7)
    tenant_id = models.BigIntegerField()
    backend_id = models.BigIntegerField()
    user = models.TextField()
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    objects: ClassVar[models.Manager["Session"]] = models.Manager()

    class Meta:
        app_label = "rival"
        managed = False
        db_table = "rival_session"


class Orm:
    """(c): one connection of Django's, kept open."""

    def __init__(self) -> None:
        self._connection = connections.create_connection(ALIAS)
        self._connection.inc_thread_sharing()
        self._connection.ensure_connection()

    def admit(self, tenant: int, user: str) -> UUID | None:
        """Lock, count, create."""
        self._take_connection()
        with transaction.atomic(using=ALIAS):
            rows = Capacity.objects.using(ALIAS).filter(id__in=(tenant, -1, -2)).order_by("-id").select_for_update()
            own_limit, backend_limit, platform_limit = (row.limit for row in rows)
            live = Session.objects.using(ALIAS).filter(ended_at=None)
            used = live.aggregate(
                everywhere=Count("id"),
                backend=Count("id", filter=Q(backend_id=BACKEND)),
                own=Count("id", filter=Q(tenant_id=tenant)),
                users=Count("id", filter=Q(tenant_id=tenant, user=user)),
            )
            if used["own"] >= own_limit or used["backend"] >= backend_limit or used["everywhere"] >= platform_limit:
                return None
            if used["users"] >= USER_LIMIT:
                return None
            slot = uuid_utils.compat.uuid7()
            Session.objects.using(ALIAS).create(id=slot, tenant_id=tenant, backend_id=BACKEND, user=user, started_at=timezone.now())
            return slot

    def release(self, slot: object) -> None:
        """Mark the end."""
        self._take_connection()
        Session.objects.using(ALIAS).filter(id=slot, ended_at=None).update(ended_at=timezone.now())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _take_connection(self) -> None:
        """Django's connections belong to threads; ours go from block to block."""
        connections[ALIAS] = self._connection


def use_own_connections() -> None:
    """Let Django's rival have connections without the product's pool, which prepare statements."""
    settings: dict[str, Any] = dict(connections.settings["default"])
    options = {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}
    connections.settings[ALIAS] = {**settings, "OPTIONS": {**options, "connect_timeout": 60, **PREPARED}}
