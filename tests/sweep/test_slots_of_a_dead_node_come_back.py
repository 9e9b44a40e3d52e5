import uuid
from datetime import datetime
from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import Activate, Resume, Resumed
from sessions_app.domain.states import Reason, State
from sessions_app.models import Node, Session, Slot
from sessions_app.selectors import verification
from sessions_app.services import nodes, sweep
from sessions_app.services.ledger import Ledger
from sessions_app.services.sweep import Swept
from tests.world import admit, admitted, ledger_mark, make_backend, make_tenant

DEAD = uuid.uuid4()
OTHER = uuid.uuid4()


@pytest.fixture
def node(committed_db: None) -> uuid.UUID:
    nodes.register(node_id=DEAD, name="dead", pid=1)
    return DEAD


def swept_steadily(sql: psycopg.Connection[Any]) -> None:
    """As if somebody had swept every second for a minute."""
    sql.execute(
        "INSERT INTO sessions_app_claim (name, holder, until, done_at, steady_since) VALUES"
        " ('sweep', '', clock_timestamp(), clock_timestamp(), clock_timestamp() - interval '1 minute')"
        " ON CONFLICT (name) DO UPDATE SET until = excluded.until, done_at = excluded.done_at, steady_since = excluded.steady_since"
    )


def silent_for(sql: psycopg.Connection[Any], seconds: float) -> datetime:
    statement = (
        "UPDATE sessions_app_node SET heartbeat_at = clock_timestamp() - make_interval(secs => %s) WHERE id = %s RETURNING heartbeat_at"
    )
    heartbeat: datetime = sql.execute(statement, (seconds, DEAD)).fetchall()[0][0]
    return heartbeat


def started(ledger: Ledger, *, active: bool = True, **quota: Any) -> Session:
    make_backend()
    answer = admitted(ledger.apply([admit(make_tenant(**quota), node_id=DEAD)])[0])
    if active:
        assert ledger.apply([Activate(answer.session_id, DEAD)]) == [True]
    return Session.objects.get(pk=answer.session_id)


@pytest.mark.parametrize(("grace_s", "wanted_s"), [(30, 12), (12, 12), (5, 5)])
def test_an_active_session_gets_the_rest_of_its_grace_from_the_last_heartbeat(
    ledger: Ledger, sql: psycopg.Connection[Any], node: uuid.UUID, grace_s: int, wanted_s: int
) -> None:
    session = started(ledger, grace_s=grace_s)
    swept_steadily(sql)
    heartbeat = silent_for(sql, 8.5)
    swept = sweep.sweep(holder="a")
    assert swept.suspended == 1
    assert Node.objects.get(pk=DEAD).state == Node.State.LOST
    suspended = session.events.get(new=State.RECONNECTING)
    assert suspended.reason == Reason.NODE_LOST
    slot = Slot.objects.filter(pk=session.pk).first()
    if wanted_s > 8.5:
        assert slot is not None
        assert slot.lease_until is not None
        assert (slot.lease_until - heartbeat).total_seconds() == wanted_s
    else:
        assert (slot, swept.ended) == (None, 1)
    assert verification.discrepancies() == []


def test_unresumed_it_ends_node_lost_when_its_grace_is_over(ledger: Ledger, sql: psycopg.Connection[Any], node: uuid.UUID) -> None:
    session = started(ledger)
    swept_steadily(sql)
    silent_for(sql, 12.5)
    assert sweep.sweep(holder="a") == Swept(suspended=1, ended=1)
    session.refresh_from_db()
    assert (session.state, session.reason) == (State.ENDED, Reason.NODE_LOST)
    assert not Slot.objects.exists()
    assert verification.discrepancies() == []
    assert sweep.sweep(holder="a") == Swept()


def test_resumed_on_another_node_it_lives_on(ledger: Ledger, sql: psycopg.Connection[Any], node: uuid.UUID) -> None:
    session = started(ledger)
    swept_steadily(sql)
    silent_for(sql, 9)
    sweep.sweep(holder="a")
    nodes.register(node_id=OTHER, name="other", pid=2)
    resumed = ledger.apply([Resume(session.pk, OTHER, session.tenant_id, session.user, 1)])[0]
    assert isinstance(resumed, Resumed)
    assert (resumed.refused, resumed.state) == (None, State.ACTIVE)
    assert resumed.gap_ms >= 9000
    assert sweep.sweep(holder="a") == Swept()
    assert Slot.objects.get().node_id == OTHER


def test_a_starting_session_of_a_dead_node_fails(ledger: Ledger, sql: psycopg.Connection[Any], node: uuid.UUID) -> None:
    session = started(ledger, active=False)
    swept_steadily(sql)
    silent_for(sql, 9)
    sweep.sweep(holder="a")
    session.refresh_from_db()
    assert (session.state, session.reason) == (State.FAILED, Reason.NODE_LOST)
    assert not Slot.objects.exists()
    assert verification.discrepancies() == []


def test_a_living_node_keeps_its_sessions(ledger: Ledger, sql: psycopg.Connection[Any], node: uuid.UUID) -> None:
    started(ledger)
    swept_steadily(sql)
    silent_for(sql, 7)
    assert sweep.sweep(holder="a") == Swept()
    assert nodes.beat(node_id=DEAD)


def test_a_node_that_was_taken_for_lost_hears_of_it(ledger: Ledger, sql: psycopg.Connection[Any], node: uuid.UUID) -> None:
    swept_steadily(sql)
    silent_for(sql, 9)
    sweep.sweep(holder="a")
    assert not nodes.beat(node_id=DEAD)


@pytest.mark.parametrize("away_s", [6.5, 60])
def test_nobody_is_taken_for_lost_when_nobody_could_sweep_or_beat(
    ledger: Ledger, sql: psycopg.Connection[Any], node: uuid.UUID, away_s: float
) -> None:
    started(ledger)
    swept_steadily(sql)
    sql.execute("UPDATE sessions_app_claim SET done_at = clock_timestamp() - make_interval(secs => %s)", (away_s,))
    silent_for(sql, away_s + 2)
    assert sweep.sweep(holder="a") == Swept()
    assert Node.objects.get(pk=DEAD).state == Node.State.UP


def test_the_first_sweep_ever_takes_nobody_for_lost(ledger: Ledger, sql: psycopg.Connection[Any], node: uuid.UUID) -> None:
    started(ledger)
    silent_for(sql, 60)
    assert sweep.sweep(holder="a") == Swept()


def test_a_slot_whose_node_has_no_row_yet_is_left_alone_for_a_lease(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    session = started(ledger)
    swept_steadily(sql)
    assert sweep.sweep(holder="a") == Swept()
    with ledger_mark(sql):
        sql.execute("UPDATE sessions_app_slot SET since = clock_timestamp() - interval '20 s'")
    assert sweep.sweep(holder="a") == Swept(1, 1)
    assert session.events.filter(reason=Reason.NODE_LOST).count() == 2
