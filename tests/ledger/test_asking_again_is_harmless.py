import uuid
from dataclasses import replace

import pytest

from sessions_app.domain.operations import Activate, Admit, End, Move, Resume, Resumed, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Attempt
from sessions_app.models import Capacity, Session, Slot
from sessions_app.selectors import verification
from sessions_app.services.ledger import MAX_BATCH, Ledger
from tests.world import NODE, admit, admitted, make_backend, make_tenant, new_ledger

OTHER_NODE = uuid.UUID(int=2)


def counters() -> dict[str, int]:
    return {f"{each.scope} {each.ref}": each.active for each in Capacity.objects.all()}


def with_excluded(operation: Admit, *backend_ids: int) -> Attempt:
    return replace(operation.attempt, exclude=frozenset(backend_ids))


def test_the_same_session_twice_in_one_batch_takes_one_slot(ledger: Ledger) -> None:
    make_backend()
    operation = admit(make_tenant())
    first, second = (admitted(each) for each in ledger.apply([operation, operation]))
    assert (first.attached, second.attached) == (False, True)
    assert (second.state, second.node_id, second.backend) == (State.STARTING, NODE, first.backend)
    assert Slot.objects.count() == 1


def test_the_same_session_from_another_connection_attaches_and_is_told_where_it_lives(ledger: Ledger) -> None:
    make_backend()
    operation = admit(make_tenant())
    ledger.apply([operation])
    ledger.apply([Activate(operation.attempt.session_id, NODE)])
    with new_ledger() as other:
        again = admitted(other.apply([operation])[0])
    assert (again.attached, again.spent, again.state, again.node_id) == (True, False, State.ACTIVE, NODE)
    assert Slot.objects.count() == 1


def test_after_its_end_the_id_is_spent(ledger: Ledger) -> None:
    make_backend()
    operation = admit(make_tenant())
    ledger.apply([operation])
    ledger.apply([End(operation.attempt.session_id, Reason.COMPLETED)])
    again = admitted(ledger.apply([operation])[0])
    assert (again.spent, again.attached, again.verdict.admitted) == (True, False, False)
    assert not Slot.objects.exists()


def test_a_refused_attempts_id_is_spent(ledger: Ledger) -> None:
    make_backend()
    operation = admit(make_tenant(max_concurrent_sessions=0))
    ledger.apply([operation])
    assert admitted(ledger.apply([operation])[0]).spent
    assert Session.objects.count() == 1


@pytest.mark.parametrize("other", ["user", "tenant"])
def test_another_users_or_tenants_use_of_the_id_is_refused_as_spent(ledger: Ledger, other: str) -> None:
    make_backend()
    tenant, stranger = make_tenant(), make_tenant("other")
    operation = admit(tenant)
    ledger.apply([operation])
    stolen = admit(stranger if other == "tenant" else tenant, "eve", session_id=operation.attempt.session_id)
    answer = admitted(ledger.apply([stolen])[0])
    assert (answer.spent, answer.attached, answer.backend) == (True, False, None)
    assert Slot.objects.count() == 1


def test_only_the_first_of_two_ends_ends_it(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant()
    ids = [admitted(each).session_id for each in ledger.apply([admit(tenant), admit(tenant)])]
    assert ledger.apply([End(ids[0], Reason.COMPLETED), End(ids[0], Reason.TERMINATED)]) == [True, False]
    assert ledger.apply([End(ids[0], Reason.TERMINATED)]) == [False]
    assert Session.objects.get(pk=ids[0]).reason == Reason.COMPLETED
    assert set(counters().values()) == {1}
    assert verification.discrepancies() == []


def test_an_end_right_behind_its_admission_in_one_batch_frees_the_slot(ledger: Ledger) -> None:
    make_backend()
    operation = admit(make_tenant())
    session_id = operation.attempt.session_id
    answer, ended = ledger.apply([operation, End(session_id, Reason.CLIENT_LOST)])
    assert admitted(answer).verdict.admitted
    assert ended is True
    session = Session.objects.get(pk=session_id)
    assert (session.state, session.reason) == (State.ENDED, Reason.CLIENT_LOST)
    assert [each.new for each in session.events.all()] == [State.STARTING, State.ENDED]
    assert not Slot.objects.exists()
    assert verification.discrepancies() == []


def test_a_slot_freed_in_a_batch_is_given_away_in_it(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=1)
    first = admit(tenant)
    ledger.apply([first])
    waiting, ended = ledger.apply([admit(tenant), End(first.attempt.session_id, Reason.COMPLETED)])
    assert (admitted(waiting).verdict.admitted, ended) == (True, True)
    assert verification.discrepancies() == []


def test_becoming_active_and_leaving_in_one_batch_still_has_a_beginning(ledger: Ledger) -> None:
    make_backend()
    operation = admit(make_tenant())
    session_id = operation.attempt.session_id
    ledger.apply([operation])
    assert ledger.apply([Activate(session_id, NODE), Suspend(session_id, NODE)]) == [True, True]
    session = Session.objects.get(pk=session_id)
    assert session.state == State.RECONNECTING
    assert session.active_at is not None
    assert [each.new for each in session.events.all()] == ["starting", "active", "reconnecting"]


def test_a_move_keeps_the_counters_right_and_the_record_true(ledger: Ledger) -> None:
    first, second = make_backend("one"), make_backend("two", pipelines={"stt_tts": {}}, cap=1)
    operation = admit(make_tenant())
    assert admitted(ledger.apply([operation])[0]).backend is not None
    moved = admitted(ledger.apply([Move(with_excluded(operation, first.id), NODE)])[0])
    assert moved.backend is not None
    assert (moved.backend.id, moved.pipeline) == (second.id, "stt_tts")
    session = Session.objects.get(pk=operation.attempt.session_id)
    assert (session.backend_id, session.pipeline, session.state) == (second.id, "stt_tts", State.STARTING)
    assert counters()[f"backend {first.id}"] == 0
    assert counters()[f"backend {second.id}"] == 1
    assert verification.discrepancies() == []
    assert not admitted(ledger.apply([Move(with_excluded(operation, first.id, second.id), NODE)])[0]).verdict.admitted
    assert ledger.apply([End(session.pk, Reason.CONNECTION_FAILED)]) == [True]
    assert set(counters().values()) == {0}


def test_a_move_never_goes_above_a_cap(ledger: Ledger) -> None:
    first, second = make_backend("one"), make_backend("two", cap=1)
    tenant = make_tenant()
    taken = admit(tenant, backend="two")
    moving = admit(tenant, backend="one")
    ledger.apply([taken, moving])
    wanted = with_excluded(admit(tenant, session_id=moving.attempt.session_id), first.id)
    answer = admitted(ledger.apply([Move(wanted, NODE)])[0])
    assert answer.verdict.reason is Reason.BACKEND_LIMIT
    assert counters()[f"backend {second.id}"] == 1


def resume(ledger: Ledger, admitted: Admit, *shown: int | None) -> list[Resumed]:
    """Come back on another node, with each of these resume tokens in turn."""
    attempt = admitted.attempt
    results = ledger.apply([Resume(attempt.session_id, OTHER_NODE, attempt.tenant_id, attempt.user, each) for each in shown or (None,)])
    return [each for each in results if isinstance(each, Resumed)]


def test_suspended_it_keeps_its_slot_for_its_grace_and_resumes_anywhere(ledger: Ledger) -> None:
    make_backend()
    operation = admit(make_tenant(grace_s=7))
    session_id = operation.attempt.session_id
    ledger.apply([operation])
    assert ledger.apply([Suspend(session_id, NODE)]) == [False]  # not active yet
    assert ledger.apply([Activate(session_id, OTHER_NODE)]) == [False]
    assert ledger.apply([Activate(session_id, NODE), Activate(session_id, NODE)]) == [True, False]
    assert ledger.apply([Suspend(session_id, OTHER_NODE), Suspend(session_id, NODE)]) == [False, True]
    slot = Slot.objects.get()
    assert slot.lease_until is not None
    suspended = Session.objects.get().events.get(new=State.RECONNECTING)
    assert (slot.lease_until - suspended.at).total_seconds() == 7
    assert ledger.apply([End(session_id, Reason.CLIENT_LOST, expired_only=True)]) == [False]
    assert [each.refused for each in resume(ledger, operation, 1, 1)] == [None, None]
    slot.refresh_from_db()
    assert (slot.state, slot.node_id) == (State.ACTIVE, OTHER_NODE)
    assert not Slot.objects.exclude(lease_until=None).exists()
    assert ledger.apply([End(session_id, Reason.COMPLETED, node_id=NODE)]) == [False]
    assert set(counters().values()) == {1}
    assert verification.discrepancies() == []


def test_a_client_that_is_back_before_its_old_node_noticed_takes_its_session_along(ledger: Ledger) -> None:
    make_backend()
    operation = admit(make_tenant())
    session_id = operation.attempt.session_id
    ledger.apply([operation])
    assert resume(ledger, operation)[0].refused is Reason.UNAVAILABLE  # it has not become active yet
    ledger.apply([Activate(session_id, NODE)])
    assert resume(ledger, operation)[0].state is State.ACTIVE
    assert ledger.apply([Suspend(session_id, NODE), End(session_id, Reason.CLIENT_LOST, node_id=NODE)]) == [False, False]
    assert Slot.objects.get().node_id == OTHER_NODE
    assert verification.discrepancies() == []


def test_a_batch_above_the_bound_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match=str(MAX_BATCH)):
        ledger.apply([End(uuid.uuid4(), Reason.COMPLETED)] * (MAX_BATCH + 1))


def test_nonsense_in_one_backends_row_leaves_the_others_usable(ledger: Ledger) -> None:
    make_backend("bad", pipelines=5, transports={"a": 1})
    make_backend("empty", pipelines={}, transports=[["websocket"]])
    good = make_backend("good")
    answer = admitted(ledger.apply([admit(make_tenant())])[0])
    assert answer.backend is not None
    assert answer.backend.id == good.id
