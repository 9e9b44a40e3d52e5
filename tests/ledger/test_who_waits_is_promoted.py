"""The queue in the ledger: who may wait, who is let in, and that places and slots are counted as they are."""

import uuid
from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import Activate, Admit, Admitted, End, Promote, Resume, Resumed, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.models import Backend, BackendHealth, Capacity, Session, SessionEvent, Slot, Waiter
from sessions_app.selectors import verification
from sessions_app.services.ledger import Ledger
from tenants.models import Quota, Tenant
from tests.world import NODE, admit, admitted, make_backend, make_tenant

OTHER = uuid.uuid4()


def full_house(ledger: Ledger, *, limit: int = 1, queue: int | None = 10, **quota: Any) -> tuple[Tenant, list[uuid.UUID]]:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=limit, max_queue_length=queue, **quota)
    live = [admitted(each).session_id for each in ledger.apply([admit(tenant, f"live{n}") for n in range(limit)])]
    return tenant, live


def join(ledger: Ledger, tenant: Tenant, count: int = 1) -> list[Admit]:
    operations = [admit(tenant, f"user{n}") for n in range(count)]
    answers = [admitted(each) for each in ledger.apply(operations)]
    assert [each.state for each in answers] == [State.QUEUED] * count
    return operations


def queued(tenant: Tenant) -> int:
    return Capacity.objects.get(scope="tenant", ref=tenant.pk).queued


def state(operation: Admit) -> str:
    return Session.objects.get(pk=operation.attempt.session_id).state


def test_who_finds_no_slot_waits_where_the_quota_lets_it(ledger: Ledger) -> None:
    tenant, _ = full_house(ledger, queue=2)
    first, second = join(ledger, tenant, 2)
    answer = admitted(ledger.apply([admit(tenant, "late")])[0])
    assert answer.verdict.reason is Reason.QUEUE_FULL
    assert queued(tenant) == Waiter.objects.count() == 2
    assert Slot.objects.count() == 1
    assert Session.objects.get(pk=first.attempt.session_id).queued_at is not None
    assert state(second) == State.QUEUED


def test_a_slot_that_becomes_free_goes_to_the_first_in_the_same_transaction(ledger: Ledger) -> None:
    tenant, live = full_house(ledger)
    first, second = join(ledger, tenant, 2)
    assert ledger.apply([End(live[0], Reason.COMPLETED)]) == [True]
    assert [each.session_id for each in ledger.promoted] == [first.attempt.session_id]
    promoted = ledger.promoted[0]
    assert (promoted.node_id, promoted.admitted.state) == (NODE, State.STARTING)
    assert promoted.admitted.backend is not None
    assert (state(first), state(second)) == (State.STARTING, State.QUEUED)
    assert (queued(tenant), Waiter.objects.count(), Slot.objects.count()) == (1, 1, 1)
    end, start = SessionEvent.objects.order_by("-id")[:2][::-1]
    assert (end.new, start.old, start.new) == ("ended", "queued", "starting")
    assert end.seq == start.seq
    assert verification.discrepancies() == []
    assert ledger.apply([Activate(first.attempt.session_id, NODE)]) == [True]


def test_a_new_attempt_does_not_overtake_who_waits(ledger: Ledger) -> None:
    tenant, live = full_house(ledger)
    first = join(ledger, tenant)[0]
    answers = ledger.apply([admit(tenant, "new"), End(live[0], Reason.COMPLETED)])
    assert admitted(answers[0]).state is State.QUEUED
    assert state(first) == State.STARTING


def test_a_raised_quota_lets_waiters_in_at_the_next_promotion(ledger: Ledger) -> None:
    tenant, _ = full_house(ledger)
    waiters = join(ledger, tenant, 3)
    Quota.objects.filter(tenant=tenant).update(max_concurrent_sessions=3)
    assert ledger.apply([Promote()]) == [True]
    assert [state(each) for each in waiters] == [State.STARTING, State.STARTING, State.QUEUED]
    assert ledger.apply([Promote()]) == [False]
    assert verification.discrepancies() == []


def test_a_backend_that_recovers_lets_waiters_in(ledger: Ledger) -> None:
    tenant, live = full_house(ledger)
    first = join(ledger, tenant)[0]
    BackendHealth.objects.update(status="unhealthy")
    ledger.apply([End(live[0], Reason.COMPLETED)])
    assert state(first) == State.QUEUED
    BackendHealth.objects.update(status="healthy")
    assert ledger.apply([Promote()]) == [True]
    assert state(first) == State.STARTING


def test_a_waiter_whose_client_is_away_keeps_its_place_and_is_passed_over(ledger: Ledger) -> None:
    tenant, live = full_house(ledger, limit=2)
    first, second = join(ledger, tenant, 2)
    session_id = first.attempt.session_id
    assert ledger.apply([Suspend(session_id, OTHER), Suspend(session_id, NODE)]) == [False, True]
    ledger.apply([End(live[0], Reason.COMPLETED)])
    assert (state(first), state(second)) == (State.QUEUED, State.STARTING)
    back = ledger.apply([Resume(session_id, OTHER, tenant.pk, "user0", 1)])[0]
    assert isinstance(back, Resumed)
    assert (back.refused, back.state, back.generation) == (None, State.QUEUED, 2)
    ledger.apply([End(live[1], Reason.COMPLETED)])
    assert ledger.promoted[0].node_id == OTHER
    slot = Slot.objects.get(pk=session_id)
    assert (slot.node_id, slot.generation, slot.resume_floor) == (OTHER, 2, 1)


@pytest.mark.parametrize(
    ("reason", "final"),
    [
        (Reason.COMPLETED, State.ABANDONED),
        (Reason.CLIENT_LOST, State.ABANDONED),
        (Reason.TERMINATED, State.ABANDONED),
        (Reason.DRAINED, State.ABANDONED),
        (Reason.QUEUE_TIMEOUT, State.EXPIRED),
        (Reason.TENANT_SUSPENDED, State.REJECTED),
    ],
)
def test_leaving_the_queue_frees_the_place_once(ledger: Ledger, reason: Reason, final: State) -> None:
    tenant, _ = full_house(ledger)
    waiter = join(ledger, tenant)[0]
    ends = [End(waiter.attempt.session_id, reason, "why", actor="olga")] * 2
    assert ledger.apply(ends) == [True, False]
    over = Session.objects.get(pk=waiter.attempt.session_id)
    assert (over.state, over.reason, over.detail) == (final, reason, "why")
    assert over.ended_at is not None
    assert (queued(tenant), Waiter.objects.count()) == (0, 0)
    assert verification.discrepancies() == []


def test_a_place_that_is_given_and_left_in_one_batch_leaves_nothing(ledger: Ledger) -> None:
    tenant, _ = full_house(ledger)
    operation = admit(tenant, "fickle")
    answers = ledger.apply([operation, End(operation.attempt.session_id, Reason.COMPLETED)])
    assert admitted(answers[0]).state is State.QUEUED
    assert answers[1] is True
    assert (state(operation), queued(tenant)) == (State.ABANDONED, 0)


def test_asking_again_finds_the_place(ledger: Ledger) -> None:
    tenant, live = full_house(ledger)
    operation = join(ledger, tenant)[0]
    again = admitted(ledger.apply([operation])[0])
    assert (again.attached, again.state) == (True, State.QUEUED)
    assert queued(tenant) == 1
    ledger.apply([End(live[0], Reason.COMPLETED)])
    promoted = admitted(ledger.apply([operation])[0])
    assert (promoted.attached, promoted.state, promoted.node_id) == (True, State.STARTING, NODE)


def test_a_suspended_tenants_waiters_are_rejected(ledger: Ledger) -> None:
    tenant, _ = full_house(ledger)
    waiter = join(ledger, tenant)[0]
    Tenant.objects.filter(pk=tenant.pk).update(status="suspended")
    ledger.apply([Promote()])
    assert state(waiter) == State.REJECTED
    assert queued(tenant) == 0


def test_only_what_gets_in_or_waits_spends_rate(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=2, sessions_per_minute=3, max_queue_length=1)
    answers = [admitted(each) for each in ledger.apply([admit(tenant, f"u{n}") for n in range(6)])]
    assert [each.state for each in answers] == [State.STARTING, State.STARTING, State.QUEUED, *[State.REJECTED] * 3]
    assert {each.verdict.reason for each in answers[3:]} == {Reason.QUEUE_FULL}
    ledger.apply([End(answers[0].session_id, Reason.COMPLETED), End(answers[2].session_id, Reason.COMPLETED)])
    short = admitted(ledger.apply([admit(tenant, "late")])[0])
    assert short.verdict.reason is Reason.RATE_LIMIT
    assert short.verdict.retry_after_s is not None
    assert 1 <= short.verdict.retry_after_s <= 20


def test_a_reservation_is_kept_free_on_its_backend(ledger: Ledger) -> None:
    make_backend(cap=4)
    rich, poor = make_tenant("rich", reserved=3), make_tenant("poor")
    answers = [admitted(each) for each in ledger.apply([admit(poor, f"p{n}") for n in range(3)])]
    assert [each.verdict.reason for each in answers] == [None, Reason.BACKEND_LIMIT, Reason.BACKEND_LIMIT]
    answers = [admitted(each) for each in ledger.apply([admit(rich, f"r{n}") for n in range(4)])]
    assert [each.verdict.reason for each in answers] == [None, None, None, Reason.BACKEND_LIMIT]


def test_reservations_above_a_cap_are_refused_by_the_database(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    backend = make_backend(cap=4)
    one, two = make_tenant("one", reserved=3), make_tenant("two")
    with pytest.raises(psycopg.Error, match="more than its cap of 4"):
        sql.execute("UPDATE tenants_quota SET reserved = 2 WHERE tenant_id = %s", (two.pk,))
    with pytest.raises(psycopg.Error, match="more than its cap of 2"):
        sql.execute("UPDATE sessions_app_backend SET cap = 2 WHERE id = %s", (backend.pk,))
    sql.execute("UPDATE tenants_quota SET reserved = 1 WHERE tenant_id = %s", (two.pk,))
    sql.execute("UPDATE sessions_app_backend SET cap = 5 WHERE id = %s", (backend.pk,))
    assert Quota.objects.get(tenant=one).reserved == 3


def test_a_burst_goes_above_the_limit_while_the_backend_is_calm(ledger: Ledger) -> None:
    make_backend(cap=4, burst_below=0.5)
    tenant = make_tenant(max_concurrent_sessions=1, burst=3)
    answers = [admitted(each) for each in ledger.apply([admit(tenant, f"u{n}") for n in range(3)])]
    assert [each.verdict.reason for each in answers] == [None, None, Reason.SESSION_LIMIT]
    assert list(Session.objects.order_by("id").values_list("burst", flat=True)) == [False, True, False]


def test_an_override_is_added_to_the_limit_for_its_time(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=1)
    sql.execute(
        "INSERT INTO tenants_override (tenant_id, field, change, starts_at, ends_at, note, created_by, created_at) VALUES"
        " (%s, 'max_concurrent_sessions', 2, now() - interval '1 h', now() + interval '1 h', 'campaign', '', now()),"
        " (%s, 'max_concurrent_sessions', 50, now() - interval '2 h', now() - interval '1 h', 'over', '', now())",
        (tenant.pk, tenant.pk),
    )
    answers = [admitted(each) for each in ledger.apply([admit(tenant, f"u{n}") for n in range(4)])]
    assert [each.verdict.admitted for each in answers] == [True, True, True, False]


def test_a_flood_of_refusals_is_counted_instead_of_stored(ledger: Ledger, settings: Any, sql: psycopg.Connection[Any]) -> None:
    settings.VOICE_REFUSALS_RECORDED_PER_S = 3
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=0)
    for _ in range(10):
        answers = ledger.apply([admit(tenant, f"u{n}") for n in range(20)])
        assert all(isinstance(each, Admitted) and each.verdict.reason is Reason.SESSION_LIMIT for each in answers)
    counted = sql.execute(
        "SELECT coalesce(sum(count), 0)::int FROM sessions_app_attemptcount WHERE tenant_id = %s", (tenant.pk,)
    ).fetchall()[0][0]
    assert counted > 0
    assert Session.objects.count() + counted == 200
    assert Backend.objects.count() == 1
