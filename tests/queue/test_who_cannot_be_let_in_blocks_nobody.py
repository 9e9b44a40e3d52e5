"""A batch looks at a part of a long queue; who cannot be let in, however many they are, must not fill that part up."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from sessions_app.domain.operations import Admit, End, Promote
from sessions_app.domain.states import Reason, State
from sessions_app.models import BackendAccess, BackendHealth, Session, Slot
from sessions_app.selectors import verification
from sessions_app.services import ledger_batch
from sessions_app.services.ledger import Ledger
from tenants.models import Override, Quota, Tenant
from tests.world import admit, admitted, make_backend, make_tenant

MANY = ledger_batch.FIRST_WAITERS + 6


def waiting(slug: str, **quota: Any) -> Tenant:
    return make_tenant(slug, max_queue_length=None, sessions_per_minute=None, **quota)


def queue(ledger: Ledger, tenant: Tenant, count: int = 1, user: str = "", **fields: Any) -> list[Admit]:
    operations = [admit(tenant, user or f"user{n}", **fields) for n in range(count)]
    assert {admitted(each).state for each in ledger.apply(operations)} == {State.QUEUED}
    return operations


def start(ledger: Ledger, tenant: Tenant, user: str = "first", **fields: Any) -> End:
    answer = admitted(ledger.apply([admit(tenant, user, **fields)])[0])
    assert answer.state is State.STARTING
    return End(answer.session_id, Reason.COMPLETED)


def promoted(ledger: Ledger) -> list[Any]:
    return [each.session_id for each in ledger.promoted]


def key(operation: Admit) -> Any:
    return operation.attempt.session_id


def test_a_user_with_a_long_line_of_its_own_does_not_keep_others_of_its_tenant_waiting(ledger: Ledger) -> None:
    make_backend(cap=2)
    tenant = waiting("acme", max_sessions_per_user=1)
    start(ledger, tenant, "greedy")
    ending = start(ledger, tenant, "other")
    queue(ledger, tenant, MANY, user="greedy")
    (patient,) = queue(ledger, tenant, user="patient")
    ledger.apply([ending])
    assert promoted(ledger) == [key(patient)]
    assert verification.discrepancies() == []


def test_its_line_moves_in_the_batch_that_ends_its_session(ledger: Ledger) -> None:
    make_backend(cap=2)
    tenant = waiting("acme", max_sessions_per_user=1)
    ending = start(ledger, tenant, "greedy")
    line = queue(ledger, tenant, MANY, user="greedy")
    ledger.apply([ending])
    assert promoted(ledger) == [key(line[0])]


@pytest.mark.parametrize("trouble", ["full", "unhealthy", "draining"])
def test_those_who_wait_for_one_backend_do_not_keep_those_of_another_waiting(ledger: Ledger, trouble: str) -> None:
    one, two = make_backend("one", cap=1), make_backend("two", cap=1)
    tenant = waiting("acme", max_concurrent_sessions=None)
    start(ledger, tenant, backend="one")
    ending = start(ledger, tenant, backend="two")
    queue(ledger, tenant, MANY, backend="one")
    (patient,) = queue(ledger, tenant, backend="two")
    if trouble == "unhealthy":
        BackendHealth.objects.filter(backend=one).update(status="unhealthy")
    type(one).objects.filter(pk=one.pk).update(draining=trouble == "draining")
    ledger.apply([ending])
    assert promoted(ledger) == [key(patient)]
    assert Slot.objects.filter(backend_id=two.pk).count() == 1


@pytest.mark.parametrize("how", ["an end", "the next round"])
def test_many_tenants_that_wait_for_one_backend_do_not_keep_one_of_another_waiting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(ledger_batch, "QUEUES", 2)
    monkeypatch.setattr(ledger_batch, "ALL_QUEUES", 2)
    one, two = make_backend("one", cap=1), make_backend("two", cap=1)
    blocked = [waiting(f"blocked{n}", priority=9) for n in range(3)]
    mine, others = waiting("mine"), waiting("others")
    BackendAccess.objects.bulk_create(BackendAccess(tenant=each, backend=one) for each in blocked[:2])
    start(ledger, others, backend="one")
    ending = start(ledger, others, backend="two")
    for each in blocked:
        queue(ledger, each, backend="" if each != blocked[2] else "one")
    (patient,) = queue(ledger, mine, backend="two")
    if how == "an end":
        ledger.apply([ending])
    else:
        type(two).objects.filter(pk=two.pk).update(cap=2)
        ledger.apply([Promote()])
    assert promoted(ledger) == [key(patient)]


def test_the_waiters_of_a_suspended_tenant_are_rejected_though_there_is_no_room_for_them(ledger: Ledger) -> None:
    make_backend(cap=1)
    tenant = waiting("acme", max_sessions_per_user=1)
    start(ledger, tenant, "ann")
    (waiter,) = queue(ledger, tenant, user="ann")
    Tenant.objects.filter(pk=tenant.pk).update(status="suspended")
    ledger.apply([Promote()])
    assert Session.objects.get(pk=key(waiter)).state == State.REJECTED


def test_who_may_have_more_for_a_time_is_let_in(ledger: Ledger) -> None:
    make_backend()
    tenant = waiting("acme", max_sessions_per_user=1)
    start(ledger, tenant, "ann")
    (waiter,) = queue(ledger, tenant, user="ann")
    Override.objects.create(tenant=tenant, field="max_sessions_per_user", change=1, ends_at=timezone.now() + timedelta(hours=1), note="x")
    assert ledger.apply([Promote()]) == [True]
    assert promoted(ledger) == [key(waiter)]
    assert Quota.objects.get(tenant=tenant).max_sessions_per_user == 1
