"""Each way around the ledger is tried, by the ORM and in raw SQL; the triggers refuse it and nothing has changed."""

import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, transaction
from django.utils import timezone

from sessions_app.domain.operations import Activate, End
from sessions_app.domain.states import Reason
from sessions_app.models import Backend, Capacity, LimitChange, Session, SessionEvent, Slot
from sessions_app.services.ledger import Ledger
from tests.world import NODE, admit, admitted, make_backend, make_tenant

REFUSED = "VP001"


@pytest.fixture
def session(ledger: Ledger) -> Session:
    make_backend()
    answer = admitted(ledger.apply([admit(make_tenant())])[0])
    return Session.objects.get(pk=answer.session_id)


def rows() -> list[list[Any]]:
    return [list(model.objects.order_by("pk").values()) for model in (Session, Slot, SessionEvent, Capacity, LimitChange)]


def new_session(session: Session) -> Session:
    return Session(tenant=session.tenant, user="eve", state="active", backend=session.backend, attempted_at=timezone.now())


def new_slot(session: Session) -> Slot:
    assert session.backend_id is not None
    return Slot(
        session=session, tenant_id=session.tenant_id, backend_id=session.backend_id, user="eve", state="active", since=timezone.now()
    )


def new_event(session: Session) -> SessionEvent:
    return SessionEvent(session=session, seq=1, new="ended", at=timezone.now(), tenant_id=session.tenant_id)


def change(row: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(row, name, value)
    row.save()


ORM: dict[str, Callable[[Session], Any]] = {
    "session saved anew": lambda s: new_session(s).save(),
    "session created in bulk": lambda s: Session.objects.bulk_create([new_session(s)]),
    "session's state saved": lambda s: change(s, state="active"),
    "session's end saved": lambda s: change(s, ended_at=timezone.now()),
    "session's tenant updated": lambda s: Session.objects.update(tenant_id=99),
    "session's backend updated": lambda s: Session.objects.update(backend=None),
    "session's user updated": lambda s: Session.objects.update(user="eve"),
    "session's node updated": lambda s: Session.objects.update(node_id=uuid.uuid4()),
    "session's limits updated": lambda s: Session.objects.update(limits=[1]),
    "session's reason updated": lambda s: Session.objects.update(reason="completed"),
    "session's start updated": lambda s: Session.objects.update(started_at=None),
    "session updated in bulk": lambda s: Session.objects.bulk_update([Session(pk=s.pk, state="ended")], ["state"]),
    "session deleted": lambda s: s.delete(),
    "sessions deleted": lambda s: Session.objects.all().delete(),
    "slot saved anew": lambda s: new_slot(s).save(force_insert=True),
    "slot created in bulk": lambda s: Slot.objects.bulk_create([new_slot(s)]),
    "slot's state saved": lambda s: change(Slot.objects.get(), state="active"),
    "slot's lease updated": lambda s: Slot.objects.update(lease_until=timezone.now()),
    "slot's owner updated": lambda s: Slot.objects.update(tenant_id=99, user="eve"),
    "slot deleted": lambda s: Slot.objects.get().delete(),
    "slots deleted": lambda s: Slot.objects.all().delete(),
    "counter saved anew": lambda s: Capacity(scope="tenant", ref=99).save(),
    "counter created in bulk": lambda s: Capacity.objects.bulk_create([Capacity(scope="tenant", ref=99)]),
    "counter saved": lambda s: change(Capacity.objects.filter(scope="tenant").get(), active=0),
    "counter updated": lambda s: Capacity.objects.update(active=0),
    "counter given to another": lambda s: Capacity.objects.filter(scope="tenant").update(ref=99),
    "counters deleted": lambda s: Capacity.objects.all().delete(),
    "event saved anew": lambda s: new_event(s).save(),
    "event created in bulk": lambda s: SessionEvent.objects.bulk_create([new_event(s)]),
    "event changed": lambda s: change(SessionEvent.objects.get(), new="ended"),
    "events updated": lambda s: SessionEvent.objects.update(actor="eve"),
    "events deleted": lambda s: SessionEvent.objects.all().delete(),
    "changes of limits updated": lambda s: LimitChange.objects.update(db_user="eve"),
    "changes of limits deleted": lambda s: LimitChange.objects.all().delete(),
}

TABLES = ("session", "slot", "capacity", "sessionevent")
RAW = [
    *(f"INSERT INTO sessions_app_{table} SELECT * FROM sessions_app_{table}" for table in TABLES),
    *(f"DELETE FROM sessions_app_{table}" for table in (*TABLES, "limitchange")),
    *(f"TRUNCATE sessions_app_{table} CASCADE" for table in (*TABLES, "limitchange")),
    "TRUNCATE tenants_tenant CASCADE",
    "UPDATE sessions_app_session SET state = 'ended'",
    "UPDATE sessions_app_session SET id = gen_random_uuid()",
    "UPDATE sessions_app_slot SET backend_id = backend_id + 1",
    "UPDATE sessions_app_slot SET node_id = NULL",
    "UPDATE sessions_app_capacity SET active = active + 1",
    "UPDATE sessions_app_sessionevent SET at = clock_timestamp()",
    "UPDATE sessions_app_limitchange SET seq = 0",
    "WITH gone AS (DELETE FROM sessions_app_slot RETURNING 1) SELECT count(*) FROM gone",
    "MERGE INTO sessions_app_capacity c USING (SELECT 1) v ON true WHEN MATCHED THEN UPDATE SET active = 0",
    "INSERT INTO sessions_app_capacity (scope, ref, active) VALUES ('tenant', 1, 5)"
    " ON CONFLICT (scope, ref) DO UPDATE SET active = excluded.active",
]


@pytest.mark.parametrize("way", ORM)
def test_the_orm_cannot_write_around_the_ledger(session: Session, way: str) -> None:
    before = rows()
    with pytest.raises(DatabaseError) as refused, transaction.atomic():
        ORM[way](session)
    assert isinstance(refused.value.__cause__, psycopg.Error)
    assert refused.value.__cause__.sqlstate == REFUSED
    assert rows() == before


@pytest.mark.parametrize("statement", RAW)
def test_raw_sql_cannot_write_around_the_ledger(session: Session, sql: psycopg.Connection[Any], statement: str) -> None:
    before = rows()
    with pytest.raises(psycopg.Error) as refused:
        sql.execute(statement)
    assert refused.value.sqlstate == REFUSED
    assert rows() == before


def test_events_cannot_be_changed_even_with_the_ledgers_mark(session: Session, sql: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as refused, sql.transaction():
        sql.execute("SELECT set_config('voice.ledger', 'on', true)")
        sql.execute("UPDATE sessions_app_sessionevent SET new = 'ended'")
    assert refused.value.sqlstate == REFUSED


def test_the_mark_ends_with_the_ledgers_transaction(session: Session, ledger: Ledger) -> None:
    with pytest.raises(psycopg.Error) as refused:
        ledger._wire._connection.execute("UPDATE sessions_app_slot SET state = 'active'")
    assert refused.value.sqlstate == REFUSED


def test_the_ledger_itself_writes(session: Session, ledger: Ledger) -> None:
    assert ledger.apply([Activate(session.pk, NODE)]) == [True]
    assert ledger.apply([End(session.pk, Reason.COMPLETED)]) == [True]
    assert [each.new for each in session.events.all()] == ["starting", "active", "ended"]


def test_what_has_history_cannot_be_deleted(session: Session) -> None:
    assert session.backend is not None
    for row in (session.backend, session.tenant):
        with pytest.raises(DatabaseError), transaction.atomic():
            row.delete()
    assert Backend.objects.exists()


@pytest.mark.parametrize("table", ["tenants_tenant", "sessions_app_backend"])
def test_what_a_session_names_cannot_be_deleted(session: Session, sql: psycopg.Connection[Any], table: str) -> None:
    named = session.tenant_id if table == "tenants_tenant" else session.backend_id
    before = rows()
    with pytest.raises(psycopg.errors.ForeignKeyViolation), sql.transaction():
        sql.execute("DELETE FROM tenants_quota")
        sql.execute("DELETE FROM sessions_app_backendhealth")
        sql.execute(f"DELETE FROM {table} WHERE id = %s", (named,))
    assert rows() == before
