"""Where nobody waits who gains by them, ends are written without a look at the world; what is not as they expect goes the long way."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connection as django_connection

from sessions_app.domain.operations import Activate, End, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.models import Capacity, Session, SessionEvent, Slot, Waiter
from sessions_app.selectors import verification
from sessions_app.services.ledger import Ledger
from sessions_app.services.ledger_sql import TENANT_KEY
from sessions_app.services.ledger_wire import Wire
from tests.world import NODE, admit, admitted, ledger_mark, make_backend, make_tenant, until_wait

OTHER_NODE = uuid.UUID(int=2)


@contextmanager
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Which functions of the database are called."""
    said: list[str] = []
    say = Wire.say

    def listen(wire: Wire, name: str, *parameters: str | None) -> None:
        if name in {"voice_open", "voice_write", "voice_finish"}:
            said.append(name)
        say(wire, name, *parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Wire, "say", listen)
        yield said


def begin(ledger: Ledger, count: int, **quota: Any) -> list[uuid.UUID]:
    make_backend()
    tenant = make_tenant(**quota)
    results = ledger.apply([admit(tenant, f"user {number}") for number in range(count)])
    return [admitted(each).session_id for each in results]


def sound() -> bool:
    return verification.discrepancies() == [] and verification.history().findings == []


def test_sessions_in_every_state_end_as_their_reasons_say(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    starting, active, away, lost = begin(ledger, 4, max_concurrent_sessions=None)
    ledger.apply([Activate(each, NODE) for each in (active, away)])
    ledger.apply([Suspend(away, NODE)])
    with looks(monkeypatch) as said:
        assert ledger.apply([
            End(starting, Reason.CONNECTION_FAILED, "no route"),
            End(active, Reason.TERMINATED, actor="ops"),
            End(away, Reason.CLIENT_LOST),
            End(lost, Reason.NODE_LOST, node_id=NODE),
        ]) == [True] * 4  # fmt: skip
    assert said == ["voice_finish"]
    states = dict(Session.objects.values_list("id", "state"))
    assert states == {starting: State.FAILED, active: State.ENDED, away: State.ENDED, lost: State.FAILED}
    last = {each.session_id: each for each in SessionEvent.objects.order_by("id")}
    assert [(last[each].old, last[each].reason) for each in (starting, active, away, lost)] == [
        ("starting", "connection_failed"),
        ("active", "terminated"),
        ("reconnecting", "client_lost"),
        ("starting", "node_lost"),
    ]
    assert (last[starting].detail, last[active].actor, last[lost].node_id) == ({"text": "no route"}, "ops", NODE)
    assert (Session.objects.get(pk=starting).detail, Session.objects.get(pk=starting).reason) == ("no route", "connection_failed")
    assert Session.objects.filter(ended_at__isnull=True).count() == 0
    assert not Slot.objects.exists()
    assert set(Capacity.objects.values_list("active", flat=True)) == {0}
    assert sound()


def test_what_does_not_end_is_looked_at_and_stays(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, elsewhere, kept = begin(ledger, 3, max_concurrent_sessions=None)
    operations = [
        End(elsewhere, Reason.COMPLETED, node_id=OTHER_NODE),
        End(ended, Reason.COMPLETED, node_id=NODE),
        End(kept, Reason.RATE_LIMIT),  # ends no session that lives
        End(uuid.UUID(int=9), Reason.COMPLETED),
    ]
    with looks(monkeypatch) as said:
        assert ledger.apply(operations) == [False, True, False, False]
    assert said == ["voice_finish", "voice_open"]
    assert set(Slot.objects.values_list("session_id", flat=True)) == {elsewhere, kept}
    assert sound()


def test_of_two_ends_of_one_session_in_a_batch_the_first_counts(ledger: Ledger) -> None:
    (session_id,) = begin(ledger, 1)
    assert ledger.apply([End(session_id, Reason.COMPLETED), End(session_id, Reason.TERMINATED)]) == [True, False]
    assert Session.objects.get().reason == Reason.COMPLETED
    assert sound()


def test_one_whose_lease_is_not_over_is_left_to_the_long_way(ledger: Ledger) -> None:
    (session_id,) = begin(ledger, 1)
    assert ledger.apply([End(session_id, Reason.CLIENT_LOST, expired_only=True)]) == [False]
    assert Slot.objects.count() == 1


def test_a_session_that_moved_while_its_end_waited_gives_the_right_slot_back(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    (session_id,) = begin(ledger, 1)
    first, second = Slot.objects.get().backend_id, make_backend("second").pk
    tenant_id = Session.objects.get().tenant_id
    with ThreadPoolExecutor(1) as threads:
        with ledger_mark(sql):
            sql.execute("SELECT pg_advisory_xact_lock(%s)", (TENANT_KEY + tenant_id,))
            ending = threads.submit(ledger.apply, [End(session_id, Reason.COMPLETED)])
            until_wait(sql, 1)
            sql.execute("UPDATE sessions_app_slot SET backend_id = %s", (second,))
            sql.execute("UPDATE sessions_app_session SET backend_id = %s", (second,))
            sql.execute("UPDATE sessions_app_capacity SET active = 0 WHERE scope = 'backend' AND ref = %s", (first,))
            sql.execute("INSERT INTO sessions_app_capacity (scope, ref, active) VALUES ('backend', %s, 1)", (second,))
        assert ending.result() == [True]
    assert not Slot.objects.exists()
    assert set(Capacity.objects.values_list("active", flat=True)) == {0}
    django_connection.close()


def test_ends_by_which_nobody_gains_leave_who_waits_where_they_are(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    (live,) = begin(ledger, 1, max_queue_length=None)
    make_backend("full", cap=0)
    tenant = Session.objects.select_related("tenant").get().tenant
    closed = make_tenant("closed", max_concurrent_sessions=0, max_queue_length=None)
    assert all(admitted(each).state is State.QUEUED for each in ledger.apply([admit(tenant, backend="full"), admit(closed)]))
    with looks(monkeypatch) as said:
        assert ledger.apply([End(live, Reason.COMPLETED)]) == [True]
    assert said == ["voice_finish"]
    assert Waiter.objects.count() == 2
    assert sound()


@pytest.mark.parametrize("limit", ["max_concurrent_sessions", "max_sessions_per_user", "cap"])
def test_whoever_waits_for_a_session_to_end_is_let_in_by_its_end(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    make_backend(cap=1 if limit == "cap" else None)
    quota: dict[str, Any] = {"max_concurrent_sessions": None, "max_queue_length": None} | ({limit: 1} if limit != "cap" else {})
    tenant = make_tenant(**quota)
    others = make_tenant("others", **quota) if limit == "cap" else tenant
    live, waits = admit(tenant), admit(others)
    ledger.apply([live])
    ledger.apply([waits])
    with looks(monkeypatch) as said:
        assert ledger.apply([End(live.attempt.session_id, Reason.COMPLETED)]) == [True]
    assert said == ["voice_finish", "voice_open", "voice_write"]
    assert [each.session_id for each in ledger.promoted] == [waits.attempt.session_id]
    assert sound()


def test_while_ends_let_somebody_in_none_is_tried_without_a_look(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    live, other = begin(ledger, 2, max_concurrent_sessions=2, max_queue_length=None)
    tenant = Session.objects.select_related("tenant").get(pk=live).tenant
    waits = admit(tenant, "waits")
    ledger.apply([waits])
    with looks(monkeypatch) as said:
        assert ledger.apply([End(live, Reason.COMPLETED)]) == [True]
        assert [each.session_id for each in ledger.promoted] == [waits.attempt.session_id]
        assert ledger.apply([Activate(other, NODE)]) == [True]  # who tells of a connection has not looked
        assert ledger.apply([End(other, Reason.COMPLETED)]) == [True]
        assert ledger.promoted == []
        assert ledger.apply([End(waits.attempt.session_id, Reason.COMPLETED)]) == [True]
    # The first finds somebody who waits; the second comes before it was seen that this was the last one.
    assert said == ["voice_finish", *["voice_open", "voice_write"] * 3, "voice_finish"]
    assert sound()


def test_a_counter_that_somebody_broke_takes_the_whole_batch_back(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    sessions = begin(ledger, 2, max_concurrent_sessions=None)
    with ledger_mark(sql):
        sql.execute("DELETE FROM sessions_app_capacity WHERE scope = 'tenant'")
    with pytest.raises(psycopg.Error, match="compare-and-set"):
        ledger.apply([End(each, Reason.COMPLETED) for each in sessions])
    assert Slot.objects.count() == 2
    assert not Session.objects.filter(ended_at__isnull=False).exists()
