from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from threading import Event
from typing import Any

import psycopg
import pytest
from django.core.management import call_command

from sessions_app.domain.operations import Activate, End
from sessions_app.domain.states import Reason
from sessions_app.models import Session
from sessions_app.selectors import verification
from sessions_app.services.ledger import Ledger
from tests.world import NODE, admit, admitted, ledger_mark, make_backend, make_tenant, new_ledger


@pytest.fixture
def session(ledger: Ledger) -> Session:
    make_backend()
    tenant = make_tenant()
    first, second, third = (admitted(each) for each in ledger.apply([admit(tenant), admit(tenant), admit(tenant)]))
    ledger.apply([Activate(first.session_id, NODE), End(second.session_id, Reason.COMPLETED), Activate(third.session_id, NODE)])
    return Session.objects.get(pk=first.session_id)


def verify() -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("verify_capacity", stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue()
    return 0, out.getvalue()


def test_a_platform_in_order_is_clean(session: Session) -> None:
    code, said = verify()
    assert (code, said) == (0, "Capacity is clean: counters, slots, sessions and events agree.\n")


def test_an_empty_platform_is_clean(committed_db: None) -> None:
    assert verify()[0] == 0


Wanted = Callable[[Session], str]
BROKEN: dict[str, tuple[str, Wanted]] = {
    "tenant's counter": (
        "UPDATE sessions_app_capacity SET active = 7 WHERE scope = 'tenant'",
        lambda s: f"counter of tenant {s.tenant_id} says 7 in use, its slots are 2",
    ),
    "backend's counter": (
        "UPDATE sessions_app_capacity SET active = 0 WHERE scope = 'backend'",
        lambda s: f"counter of backend {s.backend_id} says 0 in use, its slots are 2",
    ),
    "missing counter": (
        "DELETE FROM sessions_app_capacity WHERE scope = 'backend'",
        lambda s: f"counter of backend {s.backend_id} says 0 in use, its slots are 2",
    ),
    "missing slot": (
        "DELETE FROM sessions_app_slot WHERE session_id = '{id}'",
        lambda s: f"session {s.pk} is active, its slot is missing",
    ),
    "state of the slot": (
        "UPDATE sessions_app_slot SET state = 'reconnecting' WHERE session_id = '{id}'",
        lambda s: f"session {s.pk} is active, its slot is reconnecting",
    ),
    "state of the session": (
        "UPDATE sessions_app_session SET state = 'starting' WHERE id = '{id}'",
        lambda s: f"session {s.pk} is starting, its slot is active",
    ),
    "session that is over": (
        "UPDATE sessions_app_session SET state = 'ended' WHERE id = '{id}'",
        lambda s: f"session {s.pk} is ended, its slot is active",
    ),
    "missing events": (
        "DELETE FROM sessions_app_sessionevent WHERE session_id = '{id}'",
        lambda s: f"session {s.pk} is active, its last event says nothing",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_was_broken_from_outside_is_named_with_exit_code_1(session: Session, sql: psycopg.Connection[Any], what: str) -> None:
    statement, wanted = BROKEN[what]
    with ledger_mark(sql):
        sql.execute(statement.format(id=session.pk).encode())
    code, said = verify()
    assert code == 1
    assert wanted(session) in said.splitlines()


def test_it_is_clean_on_a_platform_that_admits_and_ends_meanwhile(session: Session) -> None:
    tenant = session.tenant
    over = Event()

    def live() -> int:
        rounds = 0
        with new_ledger() as own:
            while not over.is_set():
                answer = admitted(own.apply([admit(tenant)])[0])
                own.apply([End(answer.session_id, Reason.COMPLETED)])
                rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as threads:
        living = threads.submit(live)
        try:
            found = [verification.discrepancies() for _ in range(20)]
        finally:
            over.set()
        assert living.result(10) > 0
    assert found == [[]] * 20
