"""A batch looks at a part of a long queue; where that part ends, nobody new takes what somebody behind it could have."""

import uuid
from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import Admit, Admitted, End, Promote
from sessions_app.domain.states import Reason, State
from sessions_app.models import Backend, Session, SessionEvent, Slot, Waiter
from sessions_app.selectors import verification
from sessions_app.services import ledger_batch
from sessions_app.services.ledger import Ledger
from tenants.models import Quota, Tenant
from tests.world import admit, admitted, make_backend, make_tenant

SOME = 4


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_batch, "FIRST_WAITERS", SOME)
    monkeypatch.setattr(ledger_batch, "QUEUES", 2)


def waiting(slug: str = "acme", **quota: Any) -> Tenant:
    return make_tenant(slug, **({"max_queue_length": None, "sessions_per_minute": None, "max_concurrent_sessions": None} | quota))


def ask(ledger: Ledger, tenant: Tenant, user: str = "new", **fields: Any) -> Admitted:
    return admitted(ledger.apply([admit(tenant, user, **fields)])[0])


def start(ledger: Ledger, tenant: Tenant, user: str = "first", **fields: Any) -> End:
    answer = ask(ledger, tenant, user, **fields)
    assert answer.state is State.STARTING
    return End(answer.session_id, Reason.COMPLETED)


def queue(ledger: Ledger, tenant: Tenant, count: int = 1, user: str = "", **fields: Any) -> list[uuid.UUID]:
    operations: list[Admit] = [admit(tenant, user or f"user{n}", **fields) for n in range(count)]
    assert {admitted(each).state for each in ledger.apply(operations)} == {State.QUEUED}
    return [each.attempt.session_id for each in operations]


def promoted(ledger: Ledger) -> list[uuid.UUID]:
    return [each.session_id for each in ledger.promoted]


def why(answer: Admitted) -> tuple[State | None, Reason | None]:
    return answer.state, answer.verdict.reason


# --- a limit was raised ---------------------------------------------------------------------------------------------------------
def test_who_comes_when_a_quota_was_raised_waits_behind_those_who_waited(ledger: Ledger) -> None:
    make_backend(cap=None)
    tenant = waiting(max_concurrent_sessions=1)
    start(ledger, tenant)
    line = queue(ledger, tenant, SOME + 3)
    Quota.objects.update(max_concurrent_sessions=200)
    new = ask(ledger, tenant)
    assert why(new) == (State.QUEUED, Reason.SESSION_LIMIT)
    assert promoted(ledger) == line[: len(promoted(ledger))]
    assert 0 < len(promoted(ledger)) < len(line)
    ledger.apply([Promote()])
    assert promoted(ledger)[-1] == new.session_id
    assert not Waiter.objects.exists()
    assert verification.discrepancies() == []
    assert verification.history().findings == []


def test_the_next_batch_goes_on_where_the_last_one_ended(ledger: Ledger) -> None:
    make_backend(cap=None)
    tenant = waiting(max_concurrent_sessions=1)
    start(ledger, tenant)
    line = queue(ledger, tenant, 3 * SOME)
    Quota.objects.update(max_concurrent_sessions=200)
    asked: list[uuid.UUID] = []
    let_in: list[uuid.UUID] = []
    for number in range(5):
        answer = ask(ledger, tenant, f"new{number}")
        asked += [answer.session_id] if answer.state is State.QUEUED else []
        let_in += promoted(ledger)
    assert let_in == line + asked
    assert (answer.state, len(asked)) == (State.STARTING, 3)


def test_who_comes_when_a_cap_was_raised_waits_behind_tenants_that_were_not_looked_at(ledger: Ledger) -> None:
    backend = make_backend(cap=1)
    start(ledger, waiting("live"))
    lines = [queue(ledger, waiting(f"t{n}"))[0] for n in range(5)]
    Backend.objects.filter(pk=backend.pk).update(cap=6)
    new = ask(ledger, waiting("new"))
    assert why(new) == (State.QUEUED, Reason.BACKEND_LIMIT)
    ledger.apply([Promote()])
    assert set(Slot.objects.values_list("pk", flat=True)) >= set(lines)
    assert Waiter.objects.get().pk == new.session_id


def test_the_platforms_limit_is_shared_with_who_waits_for_another_backend(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    make_backend("one", cap=1), make_backend("two", cap=9)
    for n in range(5):
        tenant = waiting(f"t{n}", max_concurrent_sessions=0)
        queue(ledger, tenant, backend="one")
    Quota.objects.update(max_concurrent_sessions=None)
    sql.execute("UPDATE sessions_app_platform SET max_concurrent_sessions = 8")
    Backend.objects.filter(name="one").update(cap=9)
    assert why(ask(ledger, waiting("new"), backend="two")) == (State.QUEUED, Reason.PLATFORM_LIMIT)


def test_who_comes_in_the_same_batch_does_not_overtake_who_came_before_it_either(ledger: Ledger) -> None:
    make_backend("one", cap=None), make_backend("two", cap=None)
    tenant = waiting(max_concurrent_sessions=0)
    queue(ledger, tenant, SOME + 3, backend="one")
    Quota.objects.update(max_concurrent_sessions=SOME + 2)
    answers = ledger.apply([admit(tenant, "x", backend="two"), admit(tenant, "y", backend="two")])
    assert [admitted(each).state for each in answers] == [State.QUEUED, State.QUEUED]


# --- where it may not wait ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("length", "reason"), [(0, Reason.BACKEND_LIMIT), (1, Reason.QUEUE_FULL)])
def test_who_may_not_wait_is_refused_what_another_could_have(ledger: Ledger, length: int, reason: Reason) -> None:
    backend = make_backend(cap=1)
    make_backend("full", cap=0)
    start(ledger, waiting("live"))
    for n in range(5):
        queue(ledger, waiting(f"t{n}"), backend="loopback")
    other = waiting("other", max_queue_length=length)
    if length:
        queue(ledger, other, backend="full")
    Backend.objects.filter(pk=backend.pk).update(cap=50)
    assert why(ask(ledger, other)) == (State.REJECTED, reason)
    ledger.apply([Promote()])
    assert ask(ledger, other).state is State.STARTING


# --- one user's flood -----------------------------------------------------------------------------------------------------------
def flood(ledger: Ledger, users: int = 1) -> tuple[Tenant, list[End]]:
    """A tenant whose first users have what they may have, and long lines."""
    tenant = waiting(max_sessions_per_user=1)
    live = [start(ledger, tenant, f"greedy{n}") for n in range(users)] + [start(ledger, tenant, f"other{n}") for n in range(2)]
    for n in range(users):
        queue(ledger, tenant, 3 * SOME, user=f"greedy{n}")
    return tenant, live


def test_a_slot_goes_to_who_stands_behind_the_flood_of_a_user_and_not_to_who_comes(ledger: Ledger) -> None:
    make_backend(cap=3)
    tenant, live = flood(ledger)
    patient = queue(ledger, tenant, 2)
    (_, new) = ledger.apply([live[1], admit(tenant, "new")])
    assert promoted(ledger) == patient[:1]
    assert admitted(new).state is State.QUEUED


def test_who_stands_behind_the_flood_comes_in_the_order_of_their_coming(ledger: Ledger) -> None:
    make_backend(cap=3)
    tenant, live = flood(ledger)
    patient = [queue(ledger, tenant, user=user)[0] for user in ("zoe", "ann", "zoe", "kim")]
    order = []
    for each in live[1:]:
        ledger.apply([each])
        order += promoted(ledger)
    assert order == patient[:2]


def test_a_flood_that_was_looked_through_keeps_nobody_new_waiting(ledger: Ledger) -> None:
    make_backend(cap=9)
    tenant, _ = flood(ledger, users=2)
    assert ask(ledger, tenant).state is State.STARTING
    assert ask(ledger, waiting("else")).state is State.STARTING


def test_behind_floods_of_more_users_than_are_looked_through_nobody_starves(ledger: Ledger) -> None:
    make_backend(cap=22)
    tenant, live = flood(ledger, users=2 * SOME + 12)
    (patient,) = queue(ledger, tenant, user="patient")
    (_, new) = ledger.apply([live[-1], admit(tenant, "new")])
    assert (promoted(ledger), admitted(new).state) == ([], State.QUEUED)
    ledger.apply([Promote()])
    assert promoted(ledger) == [patient]
    assert Slot.objects.count() == 22


# --- who has nothing to do with it ----------------------------------------------------------------------------------------------
def test_a_queue_that_was_seen_whole_keeps_nobody_new_waiting(ledger: Ledger) -> None:
    make_backend(cap=None)
    tenant = waiting(max_concurrent_sessions=1)
    start(ledger, tenant)
    queue(ledger, tenant, SOME)
    Quota.objects.update(max_concurrent_sessions=200)
    assert ask(ledger, tenant).state is State.STARTING
    assert len(promoted(ledger)) == SOME


def test_a_long_queue_for_a_full_backend_keeps_nobody_new_from_another(ledger: Ledger) -> None:
    make_backend("full", cap=0), make_backend("two", cap=9)
    tenant = waiting()
    queue(ledger, tenant, 3 * SOME, backend="full")
    assert ask(ledger, tenant).state is State.STARTING


def test_a_long_queue_of_a_tenant_at_its_limit_keeps_nobody_new_of_others_waiting(ledger: Ledger) -> None:
    make_backend(cap=9)
    for n in range(4):
        queue(ledger, waiting(f"t{n}", max_concurrent_sessions=0), 3 * SOME)
    assert ask(ledger, waiting("new")).state is State.STARTING


def test_a_long_queue_for_a_pipeline_that_is_not_served_now_keeps_nobody_from_another(ledger: Ledger) -> None:
    make_backend("full", cap=0, pipelines={"stt_tts": {}})
    make_backend("two", cap=9, pipelines={"s2s": {}})
    tenant = waiting()
    queue(ledger, tenant, 3 * SOME, pipeline="stt_tts")
    assert ask(ledger, tenant, pipeline="s2s").state is State.STARTING


def test_long_queues_for_a_backend_without_a_cap_keep_nobody_of_another_tenant_from_it(ledger: Ledger) -> None:
    make_backend(cap=None)
    tenants = [waiting(f"t{n}", max_concurrent_sessions=0) for n in range(4)]
    for each in tenants:
        queue(ledger, each, 3 * SOME)
    Quota.objects.update(max_concurrent_sessions=100)
    assert ask(ledger, waiting("new")).state is State.STARTING


def test_slots_that_are_kept_for_a_tenant_are_its_own_however_many_wait_for_the_rest(ledger: Ledger) -> None:
    make_backend("one", cap=2)
    holder = waiting("holder")
    start(ledger, waiting("live"))
    Quota.objects.filter(tenant=holder).update(reserved=1, reserved_backend="one")
    for n in range(5):
        queue(ledger, waiting(f"t{n}"), SOME + 2)
    assert ask(ledger, holder).state is State.STARTING


# --- tenants that cannot be promoted --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("trouble", ["burst", "pipeline", "user", "reserved"])
def test_many_tenants_that_cannot_be_promoted_do_not_keep_another_waiting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(ledger_batch, "ALL_QUEUES", 2)
    one = make_backend("one", cap=20, burst_below=0.0, pipelines={"s2s": {}})
    make_backend("full", cap=0, pipelines={"stt_tts": {}})
    limits = {"burst": {"max_concurrent_sessions": 1, "burst": 5}, "user": {"max_sessions_per_user": 1}}
    blocked = [waiting(f"blocked{n}", priority=9, **limits.get(trouble, {})) for n in range(3)]
    mine = waiting("mine", max_concurrent_sessions=0)
    for each in blocked if trouble in limits else []:
        start(ledger, each, "user0")
    if trouble == "reserved":
        Backend.objects.filter(pk=one.pk).update(cap=0)
    for each in blocked:
        queue(ledger, each, backend="one" if trouble == "reserved" else "", pipeline="stt_tts" if trouble == "pipeline" else "")
    (patient,) = queue(ledger, mine)
    Quota.objects.filter(tenant=mine).update(max_concurrent_sessions=5)
    if trouble == "reserved":
        Backend.objects.filter(pk=one.pk).update(cap=3)
        Quota.objects.filter(tenant=waiting("holder")).update(reserved=3, reserved_backend="one")
        make_backend("two", cap=5)
    ledger.apply([Promote()])
    assert promoted(ledger) == [patient]


def test_why_somebody_waits_who_had_room_is_told_in_its_history(ledger: Ledger) -> None:
    make_backend(cap=None)
    tenant = waiting(max_concurrent_sessions=0)
    queue(ledger, tenant, SOME + 1)
    Quota.objects.update(max_concurrent_sessions=100)
    new = ask(ledger, tenant)
    assert SessionEvent.objects.get(session_id=new.session_id).reason == Reason.SESSION_LIMIT
    assert Session.objects.get(pk=new.session_id).limits[1]["used"] == SOME
