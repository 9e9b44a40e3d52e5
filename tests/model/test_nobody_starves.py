"""Ageing: who waits longest gets in, however many come behind with a higher priority. Time is moved, nobody sleeps."""

from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import Admit, End
from sessions_app.domain.states import Reason, State
from sessions_app.models import Session
from sessions_app.selectors import verification
from sessions_app.services.ledger import Ledger
from tests.world import admit, admitted, ledger_mark, make_backend, make_tenant

ROUND_S = 10  # one slot becomes free, and two of high priority come


def seconds_pass(sql: psycopg.Connection[Any], seconds: int) -> None:
    with ledger_mark(sql):
        sql.execute("UPDATE sessions_app_waiter SET since = since - make_interval(secs => %s)", (seconds,))


def is_in(operation: Admit) -> bool:
    return Session.objects.get(pk=operation.attempt.session_id).state == State.STARTING


@pytest.mark.parametrize("priority", [0, 1, 3, 9])
def test_a_waiter_of_the_lowest_priority_gets_in_through_a_flood_of_higher_ones(
    ledger: Ledger, sql: psycopg.Connection[Any], priority: int
) -> None:
    make_backend(cap=1)
    low = make_tenant("low", max_queue_length=None)
    high = make_tenant("high", priority=priority, weight=9, max_queue_length=None, sessions_per_minute=None)
    live = admitted(ledger.apply([admit(high)])[0]).session_id
    waiter = admit(low)
    ledger.apply([admit(high), waiter])
    rounds = 0
    while not is_in(waiter):
        rounds += 1
        seconds_pass(sql, ROUND_S)
        ledger.apply([End(live, Reason.COMPLETED), admit(high), admit(high)])
        (promoted,) = ledger.promoted
        live = promoted.session_id
        # Of those who come at two in a round and leave at one, the first has waited for half of the time that the flood has lasted:
        # so long as that is, and a step for each priority.
        assert rounds * ROUND_S <= 2 * 30 * (priority + 1)
    assert priority == 0 or rounds * ROUND_S >= 30
    assert verification.discrepancies() == []
    assert verification.history().findings == []


def test_who_waits_alone_in_its_tenant_gets_in_among_many_tenants_that_always_have_somebody(
    ledger: Ledger, sql: psycopg.Connection[Any]
) -> None:
    make_backend(cap=2)
    low = make_tenant("low", max_queue_length=None)
    others = [make_tenant(f"other{n}", priority=2, weight=5, max_queue_length=None, sessions_per_minute=None) for n in range(5)]
    first, second = ledger.apply([admit(each) for each in others[:2]])
    live = [admitted(first).session_id, admitted(second).session_id]
    waiter = admit(low)
    ledger.apply([*(admit(each) for each in others), waiter])
    for number in range(100):
        if is_in(waiter):
            break
        seconds_pass(sql, ROUND_S)
        ledger.apply([End(live.pop(0), Reason.COMPLETED), admit(others[number % 5])])
        live += [each.session_id for each in ledger.promoted]
    assert is_in(waiter)
