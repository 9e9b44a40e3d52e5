"""Whatever comes together in one batch: nobody is promoted out of turn, above a limit or by mistake, and no free slot is left lying."""

import uuid
from typing import Any

import psycopg

from sessions_app.domain.operations import Activate, Admit, Confirm, End, Move, Promote, Resume, Resumed, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.models import Session, Slot, Waiter
from sessions_app.selectors import verification
from sessions_app.services.ledger import Ledger
from sessions_app.services.ledger_batch import FIRST_WAITERS
from tenants.models import Quota, Tenant
from tests.world import NODE, admit, admitted, ledger_mark, make_backend, make_tenant

OTHER = uuid.uuid4()


def take(ledger: Ledger, tenant: Tenant, count: int = 1, **fields: Any) -> list[Admit]:
    operations = [admit(tenant, fields.pop("user", None) or f"user{n}", **fields) for n in range(count)]
    ledger.apply(operations)
    return operations


def key(operation: Admit) -> uuid.UUID:
    return operation.attempt.session_id


def end(operation: Admit) -> End:
    return End(key(operation), Reason.COMPLETED)


def state(operation: Admit) -> str:
    return Session.objects.get(pk=key(operation)).state


def test_who_asks_again_while_it_is_promoted_is_attached(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=1, max_queue_length=None)
    live, waiter = take(ledger, tenant, 2)
    _, again = ledger.apply([end(live), waiter])
    assert [each.session_id for each in ledger.promoted] == [key(waiter)]
    answer = admitted(again)
    assert (answer.attached, answer.spent, answer.state, answer.node_id) == (True, False, State.STARTING, NODE)
    assert answer.backend is not None


def test_who_is_promoted_and_gone_in_one_batch_gives_its_slot_on(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=1, max_queue_length=None)
    live, gone, following = take(ledger, tenant, 3)
    results = ledger.apply([end(live), gone, end(gone)])
    assert results[2] is True
    assert [state(each) for each in (live, gone, following)] == [State.ENDED, State.ENDED, State.STARTING]
    assert verification.discrepancies() == []
    assert verification.history().findings == []


def test_the_slot_of_who_comes_and_goes_in_one_batch_is_given_on_in_it(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=1, max_queue_length=None)
    brief, waiter = admit(tenant, "brief"), admit(tenant, "waiter")
    answers = ledger.apply([brief, waiter, end(brief)])
    assert [admitted(each).state for each in answers[:2]] == [State.STARTING, State.QUEUED]
    assert [each.session_id for each in ledger.promoted] == [key(waiter)]
    assert (state(brief), state(waiter)) == (State.ENDED, State.STARTING)
    assert (Slot.objects.count(), Waiter.objects.count()) == (1, 0)
    assert verification.discrepancies() == []
    assert verification.history().findings == []


def test_the_slot_that_a_move_gives_back_is_given_on_with_it(ledger: Ledger) -> None:
    first, second = make_backend("first", cap=1), make_backend("second", cap=1)
    tenant = make_tenant(max_queue_length=None)
    mover, waiter = take(ledger, tenant, 2, backend="first")
    attempt = admit(tenant, "user0", session_id=key(mover), exclude=frozenset({first.pk})).attempt
    moved = admitted(ledger.apply([Move(attempt, NODE)])[0])
    assert moved.backend is not None
    assert moved.backend.id == second.pk
    assert [each.session_id for each in ledger.promoted] == [key(waiter)]
    assert verification.discrepancies() == []


def test_only_a_session_that_starts_moves(ledger: Ledger) -> None:
    make_backend("first", cap=1), make_backend("second", cap=1)
    tenant = make_tenant()
    (active,) = take(ledger, tenant)
    ledger.apply([Activate(key(active), NODE)])
    before = Slot.objects.get().backend_id
    again = admit(tenant, "user0", session_id=key(active), exclude=frozenset({before})).attempt
    answer = admitted(ledger.apply([Move(again, NODE)])[0])
    assert (answer.spent, answer.state) == (True, State.ACTIVE)
    assert Slot.objects.get().backend_id == before
    assert verification.history().findings == []


def test_a_client_that_comes_back_in_a_batch_that_promotes_is_held_to_its_users_limit(ledger: Ledger) -> None:
    make_backend(cap=2)
    tenant, others = make_tenant(max_sessions_per_user=1, max_queue_length=None), make_tenant("others")
    take(ledger, tenant, user="ann")
    (waiter,) = take(ledger, tenant, user="ann")
    (other,) = take(ledger, others)
    assert ledger.apply([Suspend(key(waiter), NODE)]) == [True]
    back, _ = ledger.apply([Resume(key(waiter), OTHER, tenant.pk, "ann", 1), end(other)])
    assert isinstance(back, Resumed)
    assert (back.refused, back.state) == (None, State.QUEUED)
    assert ledger.promoted == []
    assert Slot.objects.filter(user="ann").count() == 1


def test_a_client_that_comes_back_in_a_batch_that_promotes_is_promoted_by_it(ledger: Ledger) -> None:
    make_backend(cap=1)
    tenant, others = make_tenant(max_queue_length=None), make_tenant("others")
    (other,) = take(ledger, others)
    (waiter,) = take(ledger, tenant)
    assert ledger.apply([Suspend(key(waiter), NODE)]) == [True]
    ledger.apply([Resume(key(waiter), OTHER, tenant.pk, "user0", 1), end(other)])
    assert [(each.session_id, each.node_id) for each in ledger.promoted] == [(key(waiter), OTHER)]


def test_who_is_told_of_far_behind_in_a_long_queue_overtakes_nobody(ledger: Ledger) -> None:
    make_backend(cap=None)
    tenant = make_tenant(max_concurrent_sessions=1, max_queue_length=None, sessions_per_minute=None)
    (live,) = take(ledger, tenant)
    waiters = take(ledger, tenant, FIRST_WAITERS + 10)
    Quota.objects.update(max_concurrent_sessions=None)
    ledger.apply([Confirm(key(waiters[-1]), NODE, 1), end(live)])
    promoted = [each.session_id for each in ledger.promoted]
    assert len(promoted) > FIRST_WAITERS
    assert promoted == [key(each) for each in waiters[: len(promoted)]]
    ledger.apply([Promote()])
    assert not Waiter.objects.exists()


def test_a_session_that_was_resumed_is_not_ended_for_a_lease_that_was_over_before(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    make_backend()
    tenant = make_tenant()
    (live,) = take(ledger, tenant)
    assert ledger.apply([Activate(key(live), NODE), Suspend(key(live), NODE)]) == [True, True]
    with ledger_mark(sql):
        sql.execute("UPDATE sessions_app_slot SET lease_until = lease_until - interval '1 h'")
    late = End(key(live), Reason.CLIENT_LOST, expired_only=True)
    assert ledger.apply([Resume(key(live), OTHER, tenant.pk, "user0", 1), late])[1] is False
    assert state(live) == State.ACTIVE
