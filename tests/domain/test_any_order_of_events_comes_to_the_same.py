"""Whatever is lost, doubled or out of order of what a provider told of a room: after a look at its list the platform knows what is so."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sessions_app.domain.rooms import SETTLE_S, Asked, Do, Facts, Happening, Life, Listed, Listing, next_step
from sessions_app.domain.states import Reason, State

ROLES = ("user", "agent", "other")


class Truth:
    """A room as its provider has it: made, left, made again; people come and go, each stay with a sid of its own."""

    def __init__(self) -> None:
        self.events: list[Happening] = []
        self.room: str | None = None
        self.people: dict[str, Listed] = {}
        self._rooms = self._stays = 0

    def step(self, what: int) -> None:
        if self.room is None:
            self._rooms += 1
            self.room = f"RM{self._rooms}"
            self._tell("room_started")
        elif what in (0, 1):
            self._stays += 1
            role = ROLES[what]
            self.people[f"PA{self._stays}"] = Listed(f"PA{self._stays}", role, audio=False)
            self._tell("participant_joined", f"PA{self._stays}", role)
        elif what == 2 and self.people:
            sid, who = next(iter(self.people.items()))
            self.people[sid] = replace(who, audio=True)
            self._tell("track_published", sid, who.role, audio=True)
        elif what == 3 and self.people:
            sid, who = self.people.popitem()
            self._tell("participant_left", sid, who.role)
        elif what == 4:
            self.people.clear()
            self._tell("room_finished")
            self.room = None
        elif what == 5:  # the server dies: nobody is told
            self.people.clear()
            self.room = None

    def _tell(self, kind: str, sid: str = "", role: str = "other", *, audio: bool = False) -> None:
        assert self.room is not None
        self.events.append(Happening(kind, self.room, 1.0, sid, role, audio))

    def listing(self) -> Listing:
        return Listing(self.room, tuple(self.people.values()), 1.0 + 2 * SETTLE_S)


def known(facts: Facts) -> tuple[bool, bool, bool]:
    return facts.is_open, facts.user_is_here, facts.agent_is_here


@given(steps=st.lists(st.integers(0, 5), max_size=25), data=st.data())
def test_after_a_list_what_is_known_is_what_is_so(steps: list[int], data: st.DataObject) -> None:
    truth = Truth()
    for each in steps:
        truth.step(each)
    delivered = data.draw(st.lists(st.sampled_from(truth.events), max_size=40)) if truth.events else []
    facts = Facts()
    for event in delivered:
        facts.happened(event)
    facts.were_listed(truth.listing())
    people = truth.people.values()
    assert known(facts) == (
        truth.room is not None and not any(each.kind == "room_finished" and each.room == truth.room for each in delivered),
        any(each.role == "user" for each in people),
        any(each.role == "agent" and each.audio for each in people),
    )


@given(steps=st.lists(st.integers(0, 4), max_size=25), data=st.data())
def test_in_any_order_and_doubled_they_say_the_same_as_in_order(steps: list[int], data: st.DataObject) -> None:
    truth = Truth()
    for each in steps:
        truth.step(each)
    ordered, shuffled = Facts(), Facts()
    for event in truth.events:
        ordered.happened(event)
    again = data.draw(st.lists(st.sampled_from(truth.events), max_size=20)) if truth.events else []
    for event in data.draw(st.permutations(truth.events + again)):
        shuffled.happened(event)
    assert shuffled.to_json()["rooms"] == ordered.to_json()["rooms"]
    assert known(shuffled) == known(ordered)
    assert known(ordered) == (
        truth.room is not None,
        any(each.role == "user" for each in truth.people.values()),
        any(each.role == "agent" and each.audio for each in truth.people.values()),
    )
    assert known(Facts.from_json(shuffled.to_json())) == known(shuffled)


@given(steps=st.lists(st.integers(0, 5), max_size=25), data=st.data())
def test_a_session_comes_to_the_same_end_whatever_was_lost(steps: list[int], data: st.DataObject) -> None:
    """The rule, applied to what is known after a reconcile, asks for the same whatever was delivered before it."""
    truth = Truth()
    for each in steps:
        truth.step(each)
    state = data.draw(st.sampled_from([State.STARTING, State.ACTIVE, State.RECONNECTING]))
    life = Life(state, join_by=0.0, lease_until=0.0)
    asked = []
    for delivered in (truth.events, data.draw(st.lists(st.sampled_from(truth.events), max_size=30)) if truth.events else []):
        facts = Facts()
        for event in delivered:
            facts.happened(event)
        facts.were_listed(truth.listing())
        step = next_step(life, facts, now=10.0, asked=Asked.YES)
        # That a room is gone is known from its finish, or it is found missing and made again: both end where nobody comes back.
        asked.append(step.do if truth.room is not None else None)
    assert asked[0] == asked[1]


def test_a_person_who_joined_anew_before_the_old_stay_was_over_is_there() -> None:
    facts = Facts()
    for kind, sid in (("participant_joined", "PA1"), ("participant_joined", "PA2"), ("participant_left", "PA1")):
        facts.happened(Happening(kind, "RM1", 1.0, sid, "user"))
    assert facts.user_is_here


def test_who_left_does_not_come_back_by_an_event_that_was_late() -> None:
    facts = Facts()
    for kind in ("participant_left", "participant_joined", "track_published"):
        facts.happened(Happening(kind, "RM1", 1.0, "PA1", "user"))
    assert not facts.user_is_here


def test_a_room_that_was_made_again_outlives_the_late_end_of_the_one_before() -> None:
    facts = Facts()
    facts.happened(Happening("room_started", "RM1", 1.0))
    facts.were_listed(Listing(None, (), 5.0))
    facts.was_made()
    facts.happened(Happening("room_started", "RM2", 6.0))
    facts.happened(Happening("room_finished", "RM1", 7.0))
    assert facts.is_open
    assert next_step(Life(State.STARTING, join_by=100.0), facts, now=8.0, asked=Asked.NO).do is Do.NOTHING


def test_one_who_has_just_come_is_not_gone_because_a_list_was_without_them() -> None:
    facts = Facts()
    facts.happened(Happening("participant_joined", "RM1", 10.0, "PA1", "user"))
    facts.were_listed(Listing("RM1", (), 10.0 + SETTLE_S / 2))
    assert facts.user_is_here
    facts.were_listed(Listing("RM1", (), 10.0 + 2 * SETTLE_S))
    assert not facts.user_is_here


def test_what_is_remembered_is_bounded() -> None:
    facts = Facts()
    for number in range(1000):
        for kind in ("participant_joined", "participant_left"):
            facts.happened(Happening(kind, f"RM{number}", float(number), f"PA{number}", "user"))
        facts.happened(Happening("room_finished", f"RM{number}", float(number)))
    assert len(facts.people) <= 64
    assert len(facts.rooms) <= 32


def test_facts_that_cannot_be_read_are_none() -> None:
    for kept in ({"rooms": 1}, {"people": {"PA1": ["user"]}}, {"rooms": {"RM1": "ajar"}}, {}):
        assert Facts.from_json(kept) == Facts()


def test_a_server_that_goes_down_in_order_has_not_ended_its_rooms() -> None:
    facts = Facts()
    facts.happened(Happening("participant_joined", "RM1", 1.0, "PA1", "user"))
    facts.happened(Happening("participant_left", "RM1", 2.0, "PA1", "user", why="SERVER_SHUTDOWN"))
    facts.happened(Happening("room_finished", "RM1", 2.0))
    step = next_step(Life(State.ACTIVE), facts, now=3.0, asked=Asked.NO)
    assert step.do is Do.REMAKE


def test_a_room_that_its_agent_ended_ends_the_session() -> None:
    facts = Facts()
    facts.happened(Happening("participant_joined", "RM1", 1.0, "PA1", "user"))
    facts.happened(Happening("participant_left", "RM1", 2.0, "PA1", "user", why="ROOM_DELETED"))
    facts.happened(Happening("room_finished", "RM1", 2.0))
    step = next_step(Life(State.ACTIVE), facts, now=3.0, asked=Asked.NO)
    assert (step.do, step.reason) == (Do.END, Reason.PROVIDER_ENDED)
