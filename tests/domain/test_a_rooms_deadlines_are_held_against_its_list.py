"""What follows from what is known of a room: deadlines, asked about before they end anything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions_app.domain.rooms import PATIENCE_S, Asked, Do, Facts, Happening, Life, Step, next_step
from sessions_app.domain.states import Reason, State

NOW = 1000.0


def room(*people: tuple[str, str]) -> Facts:
    """A room with these people in it, by role, each with or without sound."""
    facts = Facts()
    facts.happened(Happening("room_started", "RM1", NOW))
    for number, (role, sound) in enumerate(people):
        facts.happened(Happening("participant_joined", "RM1", NOW, f"PA{number}", role, audio=sound == "audible"))
    return facts


def step(life: Life, facts: Facts | None = None, *, asked: Asked = Asked.YES, now: float = NOW) -> Step:
    return next_step(life, facts if facts is not None else room(), now=now, asked=asked)


MISSED = [
    (Life(State.STARTING, join_by=NOW - 1), room(), Reason.CLIENT_LOST),
    (Life(State.RECONNECTING, lease_until=NOW - 1), room(), Reason.CLIENT_LOST),
    (Life(State.RECONNECTING, lease_until=NOW - 1, unresumed=Reason.DRAINED), room(), Reason.DRAINED),
    (Life(State.RECONNECTING, lease_until=NOW + 9, dropped_at=NOW - 5, idle_timeout_s=4), room(), Reason.IDLE_TIMEOUT),
    (Life(State.ACTIVE, agent_by=NOW - 1, agent_timeout_s=9, on_agent_absent="end"), room(("user", "")), Reason.AGENT_ABSENT),
    (Life(State.ACTIVE, agent_by=NOW - 1, agent_timeout_s=9, agent_tries=1), room(("user", "")), Reason.AGENT_ABSENT),
]


@pytest.mark.parametrize(("life", "facts", "reason"), MISSED)
def test_a_missed_deadline_ends_the_session_once_the_provider_was_asked(life: Life, facts: Facts, reason: Reason) -> None:
    assert step(life, facts, asked=Asked.NO).do is Do.ASK
    ended = step(life, facts)
    assert (ended.do, ended.reason) == (Do.END, reason)
    assert ended.since is not None
    assert ended.since < NOW


@pytest.mark.parametrize(("life", "facts", "reason"), MISSED)
def test_a_provider_that_cannot_be_asked_is_waited_for_and_not_for_ever(life: Life, facts: Facts, reason: Reason) -> None:
    waits = step(life, facts, asked=Asked.IN_VAIN)
    assert (waits.do, waits.due) == (Do.NOTHING, NOW + 1)
    late = step(life, facts, asked=Asked.IN_VAIN, now=NOW + PATIENCE_S)
    assert (late.do, late.reason) == (Do.END, reason)


def test_the_longest_duration_needs_nobodys_word() -> None:
    ended = step(Life(State.ACTIVE, active_at=NOW - 60, max_duration_s=60), room(("user", "")), asked=Asked.NO)
    assert (ended.do, ended.reason) == (Do.END, Reason.MAX_DURATION)


def test_without_an_agent_another_is_asked_for_once() -> None:
    for policy, wanted in (("retry", Do.DISPATCH), ("other", Do.OTHER), ("end", Do.END)):
        life = Life(State.ACTIVE, agent_by=NOW - 1, agent_timeout_s=9, on_agent_absent=policy)
        assert step(life, room(("user", ""))).do is wanted


def test_an_agent_without_sound_is_none() -> None:
    life = Life(State.ACTIVE, agent_by=NOW - 1, agent_timeout_s=9, on_agent_absent="end")
    assert step(life, room(("user", ""), ("agent", ""))).do is Do.END
    assert step(life, room(("user", ""), ("agent", "audible"))).do is Do.NOTHING


def test_an_agent_that_hung_up_has_ended_the_session() -> None:
    facts = room(("user", ""), ("agent", "audible"))
    facts.happened(Happening("participant_left", "RM1", NOW, "PA1", "agent", why="CLIENT_INITIATED"))
    ended = step(Life(State.ACTIVE, agent_by=NOW - 1, agent_timeout_s=9), facts)
    assert (ended.do, ended.reason) == (Do.END, Reason.PROVIDER_ENDED)


def test_one_where_no_agent_is_expected_needs_none() -> None:
    assert step(Life(State.ACTIVE, agent_by=NOW - 1), room(("user", ""))) == Step(Do.NOTHING)


def test_the_next_look_is_at_the_first_deadline() -> None:
    life = Life(State.STARTING, join_by=NOW + 30, agent_by=NOW + 10, agent_timeout_s=10)
    assert step(life, asked=Asked.NO) == Step(Do.NOTHING, due=NOW + 10)


def test_who_comes_back_after_the_grace_but_before_anybody_looked_is_in_time() -> None:
    assert step(Life(State.RECONNECTING, lease_until=NOW - 1), room(("user", ""))).do is Do.JOIN


@given(
    state=st.sampled_from([None, State.STARTING, State.ACTIVE, State.RECONNECTING]),
    asked_to_end=st.sampled_from([None, Reason.TERMINATED]),
    people=st.lists(st.sampled_from([("user", ""), ("agent", ""), ("agent", "audible"), ("other", "")]), max_size=3),
    times=st.lists(st.one_of(st.none(), st.floats(NOW - 20, NOW + 20)), min_size=5, max_size=5),
    asked=st.sampled_from(Asked),
)
def test_what_is_over_is_closed_what_was_asked_to_end_ends_and_nothing_waits_for_the_past(
    state: State | None,
    asked_to_end: Reason | None,
    people: list[tuple[str, str]],
    times: list[float | None],
    asked: Asked,
) -> None:
    join_by, agent_by, lease_until, dropped_at, active_at = times
    life = Life(
        state,
        asked_to_end,
        join_by,
        agent_by,
        lease_until=lease_until,
        dropped_at=dropped_at,
        active_at=active_at,
        max_duration_s=10,
        idle_timeout_s=10,
        agent_timeout_s=5,
    )
    found = step(life, room(*people), asked=asked)
    if state is None:
        assert found.do is Do.CLOSE
    elif asked_to_end is not None:
        assert (found.do, found.reason) == (Do.END, asked_to_end)
    assert found.due is None or found.due > NOW
    assert (found.reason is not None) == (found.do is Do.END)
    assert found.do is not Do.ASK or asked is Asked.NO
