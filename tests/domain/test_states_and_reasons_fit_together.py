import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions_app.domain.states import FINAL_STATES, LIVE_STATES, MEANINGS, SLOT_STATES, TRANSITIONS, Reason, State, final_state

NORMAL_CLOSE = 1000


def ends(reason: Reason, state: State) -> State | None:
    try:
        return final_state(reason, state)
    except ValueError:
        return None


def test_every_reason_has_one_meaning_and_a_sentence() -> None:
    assert set(MEANINGS) == set(Reason)
    for meaning in MEANINGS.values():
        assert meaning.message.endswith((".", "?"))
        assert meaning.close is None or meaning.close == NORMAL_CLOSE or 4000 <= meaning.close < 5000
        assert meaning.http is None or 400 <= meaning.http < 600
        assert meaning.final is None or meaning.final in FINAL_STATES


@pytest.mark.parametrize("reason", [each for each in Reason if MEANINGS[each].final is not None])
def test_the_final_state_of_every_reason_can_be_reached_by_it(reason: Reason) -> None:
    reached = {ends(reason, state) for state in LIVE_STATES}
    if MEANINGS[reason].final is State.REJECTED:
        assert State.REJECTED in TRANSITIONS[None]
    else:
        assert MEANINGS[reason].final in reached


@given(st.sampled_from(Reason), st.sampled_from(State))
def test_a_reason_ends_only_what_the_transitions_allow(reason: Reason, state: State) -> None:
    final = ends(reason, state)
    if final is not None:
        assert final in FINAL_STATES
        assert final in TRANSITIONS[state]


@given(st.data())
def test_every_walk_along_the_transitions_ends_and_stays_at_its_end(data: st.DataObject) -> None:
    state: State | None = None
    held = False
    for _ in range(20):
        following = TRANSITIONS.get(state, frozenset())
        if not following:
            break
        state = data.draw(st.sampled_from(sorted(following)))
        assert not (state is State.QUEUED and held), "a session that has a slot does not go back into the queue"
        held = held or state in SLOT_STATES
    if state in FINAL_STATES:
        assert state not in TRANSITIONS
        assert all(ends(reason, state) is None for reason in Reason)
    assert not (held and state in {State.REJECTED, State.ABANDONED, State.EXPIRED})


def test_each_live_state_can_be_left_for_good() -> None:
    for state in LIVE_STATES:
        assert TRANSITIONS[state] & FINAL_STATES
    assert set(TRANSITIONS) == LIVE_STATES | {None}


@pytest.mark.parametrize("reason", [Reason.NODE_LOST, Reason.COMPLETED, Reason.CLIENT_LOST, Reason.DRAINED, Reason.PROVIDER_FAILED])
def test_what_can_happen_at_any_time_ends_a_session_in_every_slot_state(reason: Reason) -> None:
    assert all(ends(reason, state) for state in SLOT_STATES)
    assert final_state(Reason.NODE_LOST, State.STARTING) is State.FAILED
    assert final_state(Reason.CLIENT_LOST, State.QUEUED) is State.ABANDONED
