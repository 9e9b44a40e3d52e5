"""Which resume tokens are good is the ledger's to say: those from the oldest that may still be all its client has to the newest."""

import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions_app.domain.operations import Activate, Admit, Adopt, Confirm, End, Resume, Resumed, Suspend
from sessions_app.domain.states import Reason, State
from sessions_app.models import Session, SessionEvent, Slot
from sessions_app.selectors import verification
from sessions_app.services import ledger_life
from sessions_app.services.ledger import Ledger
from tests.world import NODE, admit, make_backend, make_tenant

OTHER = uuid.uuid4()


@pytest.fixture
def live(ledger: Ledger) -> Admit:
    make_backend()
    operation = admit(make_tenant(grace_s=9))
    ledger.apply([operation, Activate(operation.attempt.session_id, NODE)])
    return operation


def resume(ledger: Ledger, live: Admit, shown: int | None, *, node: uuid.UUID = NODE, user: str = "") -> Resumed:
    attempt = live.attempt
    answer = ledger.apply([Resume(attempt.session_id, node, attempt.tenant_id, user or attempt.user, shown)])[0]
    assert isinstance(answer, Resumed)
    return answer


def test_each_connection_gets_the_next_number(ledger: Ledger, live: Admit) -> None:
    assert [resume(ledger, live, number).generation for number in (1, 2, 3)] == [2, 3, 4]
    slot = Slot.objects.get()
    assert (slot.generation, slot.resume_floor) == (4, 3)


def test_a_confirmed_connection_makes_the_older_tokens_bad(ledger: Ledger, live: Admit) -> None:
    session_id = live.attempt.session_id
    assert resume(ledger, live, 1).generation == 2
    assert resume(ledger, live, 1).generation == 3
    assert ledger.apply([Confirm(session_id, NODE, 3)]) == [True]
    assert resume(ledger, live, 2).refused is Reason.AUTHENTICATION_FAILED
    assert resume(ledger, live, 4).refused is Reason.AUTHENTICATION_FAILED
    assert resume(ledger, live, 3).generation == 4
    told = list(SessionEvent.objects.filter(reason=Reason.AUTHENTICATION_FAILED).values_list("detail__resume_token", flat=True))
    assert told == [2, 4]


def test_a_late_confirmation_of_an_older_connection_changes_nothing(ledger: Ledger, live: Admit) -> None:
    resume(ledger, live, 1)
    resume(ledger, live, 1)
    assert ledger.apply([Confirm(live.attempt.session_id, NODE, 2), Confirm(live.attempt.session_id, OTHER, 3)]) == [False, False]
    assert resume(ledger, live, 1).refused is None


def test_another_users_token_is_no_good(ledger: Ledger, live: Admit) -> None:
    assert resume(ledger, live, 1, user="mallory").refused is Reason.AUTHENTICATION_FAILED


def test_the_gap_counts_from_the_drop(ledger: Ledger, live: Admit) -> None:
    session_id = live.attempt.session_id
    ledger.apply([Suspend(session_id, NODE)])
    answer = resume(ledger, live, 1, node=OTHER)
    assert (answer.state, answer.pipeline, answer.transport) == (State.ACTIVE, "s2s", "websocket")
    dropped, back = SessionEvent.objects.filter(session=session_id).order_by("id")[2:4]
    assert answer.gap_ms == pytest.approx((back.at - dropped.at).total_seconds() * 1000, abs=1)
    assert Session.objects.get().node_id == OTHER


def test_a_node_with_a_new_id_does_not_take_a_session_back_that_another_one_has(ledger: Ledger, live: Admit) -> None:
    session_id, fresh = live.attempt.session_id, uuid.uuid4()
    resume(ledger, live, 1, node=OTHER)
    assert ledger.apply([Adopt(session_id, fresh, NODE, 1)]) == [False]
    assert ledger.apply([Adopt(session_id, fresh, OTHER, 2)]) == [True]
    assert Slot.objects.get().node_id == fresh


def test_a_client_that_comes_back_for_ever_is_refused_in_the_end(ledger: Ledger, live: Admit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_life, "MAX_CONNECTIONS", 3)
    answers = [resume(ledger, live, None).refused for _ in range(4)]
    assert answers == [None, None, Reason.AUTHENTICATION_FAILED, Reason.AUTHENTICATION_FAILED]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.tuples(st.just("show"), st.integers(0, 8)), st.tuples(st.just("confirm"), st.integers(1, 8))), max_size=12))
def test_good_are_exactly_the_tokens_from_the_floor_to_the_newest(ledger: Ledger, steps: list[tuple[str, int]]) -> None:
    backend = make_backend(f"b{uuid.uuid4().hex[:12]}")
    live = admit(make_tenant(f"t{uuid.uuid4().hex[:12]}", grace_s=9), backend=backend.name)
    session_id = live.attempt.session_id
    ledger.apply([live, Activate(session_id, NODE)])
    newest, floor = 1, 1
    for what, number in steps:
        if what == "confirm":
            assert ledger.apply([Confirm(session_id, NODE, number)]) == [number == newest]
            floor = number if number == newest else floor
            continue
        good = floor <= number <= newest
        assert (resume(ledger, live, number).refused is None) == good
        if good:
            newest, floor = newest + 1, number
    assert ledger.apply([End(session_id, Reason.COMPLETED)]) == [True]
    assert verification.discrepancies() == []
