from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from sessions_app.domain.operations import Admitted, End
from sessions_app.domain.states import Reason
from sessions_app.models import Backend, LimitChange, Platform, Slot
from sessions_app.selectors import verification
from sessions_app.services.connections import open_connection
from sessions_app.services.ledger import Ledger
from tenants.models import Quota, Tenant
from tests.world import admit, admitted, make_backend, make_tenant, new_ledger

Edit = Callable[[psycopg.Connection[Any]], Any]


def saved(sql: psycopg.Connection[Any]) -> None:
    quota = Quota.objects.get()
    quota.max_concurrent_sessions = 1
    quota.save()


EDITS: dict[str, tuple[Edit, Reason, str]] = {
    "form": (saved, Reason.SESSION_LIMIT, "tenant"),
    "queryset": (lambda sql: Quota.objects.update(max_sessions_per_user=1), Reason.USER_LIMIT, "tenant"),
    "raw SQL": (lambda sql: sql.execute("UPDATE sessions_app_backend SET cap = 1"), Reason.BACKEND_LIMIT, "backend"),
    "set_quota": (lambda sql: call_command("set_quota", "acme", "max_concurrent_sessions=1"), Reason.SESSION_LIMIT, "tenant"),
    "set_backend": (lambda sql: call_command("set_backend", "loopback", "cap=1"), Reason.BACKEND_LIMIT, "backend"),
    "draining": (lambda sql: call_command("set_backend", "loopback", "draining=true"), Reason.BACKEND_DRAINING, "backend"),
    "set_platform": (lambda sql: call_command("set_platform", "max_concurrent_sessions=1"), Reason.PLATFORM_LIMIT, "platform"),
    "suspension": (lambda sql: Tenant.objects.update(status="suspended"), Reason.TENANT_SUSPENDED, "tenant"),
}


@pytest.mark.parametrize("how", EDITS)
def test_however_it_is_edited(ledger: Ledger, sql: psycopg.Connection[Any], how: str) -> None:
    edit, reason, scope = EDITS[how]
    make_backend()
    tenant = make_tenant()
    assert admitted(ledger.apply([admit(tenant)])[0]).verdict.admitted
    before = list(LimitChange.objects.values_list("seq", flat=True))
    edit(sql)
    assert admitted(ledger.apply([admit(tenant)])[0]).verdict.reason is reason
    change = LimitChange.objects.latest("id")
    assert change.scope == scope
    assert change.old != change.new
    after = list(LimitChange.objects.order_by("id").values_list("seq", flat=True))
    assert len(after) == len(before) + 1
    assert after == sorted(set(after))
    assert Slot.objects.count() == 1  # lowering a limit ends nobody


def test_an_edit_that_changes_nothing_is_not_recorded(committed_db: None) -> None:
    make_backend()
    before = LimitChange.objects.count()
    Backend.objects.get().save()
    assert LimitChange.objects.count() == before


def test_a_change_of_secrets_is_recorded_without_them(committed_db: None) -> None:
    backend = make_backend()
    for secret in ("first-secret", "second-secret"):
        backend.secrets = {"key": secret}
        backend.save()
    stored = Backend.objects.extra(select={"raw": "secrets"}).values_list("raw", flat=True)[0]
    change = LimitChange.objects.latest("id")
    assert change.new is not None
    assert change.new["secrets"] == "changed"
    told = str(list(LimitChange.objects.values()))
    assert "first-secret" not in told
    assert "second-secret" not in told
    assert stored not in told
    assert "gAAAA" not in told  # how every Fernet token begins


def test_a_platform_cap_set_while_batches_without_it_are_in_flight_is_never_exceeded(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    """Two processes that know of no cap are stopped in mid-batch; the cap waits for them, and counts them."""
    make_backend()
    tenants = [make_tenant(slug) for slug in ("one", "two", "three")]

    def ask(tenant: Tenant) -> Admitted:
        with new_ledger() as own:
            return admitted(own.apply([admit(tenant)])[0])

    capped = Event()

    def cap() -> None:
        with open_connection(name="cap") as own:
            own.execute("UPDATE sessions_app_platform SET max_concurrent_sessions = 1")
        capped.set()

    with ThreadPoolExecutor(3) as threads:
        with sql.transaction():
            sql.execute("LOCK TABLE sessions_app_session IN SHARE MODE")
            early = threads.submit(ask, tenants[0])
            wait_for(sql, "test ledger")
            setting = threads.submit(cap)
            wait_for(sql, "cap")
            assert not capped.is_set()
            late = threads.submit(ask, tenants[1])
        assert early.result(10).verdict.admitted
        setting.result(10)
        # It locked before or after the cap was set; either way it was counted.
        late.result(10)
    assert admitted(ledger.apply([admit(tenants[2])])[0]).verdict.reason is Reason.PLATFORM_LIMIT
    assert Slot.objects.count() <= 2
    assert verification.discrepancies() == []


def test_with_a_platform_cap_several_processes_never_exceed_it(ledger: Ledger) -> None:
    make_backend()
    tenants = [make_tenant(f"tenant-{n}") for n in range(8)]
    Platform.objects.update(max_concurrent_sessions=3)

    def ask(tenant: Tenant) -> list[Admitted]:
        with new_ledger() as own:
            return [admitted(own.apply([admit(tenant)])[0]) for _ in range(3)]

    with ThreadPoolExecutor(8) as threads:
        answers = [each for many in threads.map(ask, tenants) for each in many]
    assert sum(each.verdict.admitted for each in answers) == 3
    assert {each.verdict.reason for each in answers} == {None, Reason.PLATFORM_LIMIT}
    ended = ledger.apply([End(each.session_id, Reason.COMPLETED) for each in answers if each.verdict.admitted])
    assert ended == [True] * 3
    assert verification.discrepancies() == []
    connection.close()


def wait_for(sql: psycopg.Connection[Any], name: str) -> None:
    """Until a connection of this name waits for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    while sql.execute(waiting, (name,)).fetchall()[0][0] == 0:
        sql.execute("SELECT pg_stat_clear_snapshot()")
