"""The life of a session whose client and agent meet in a provider's room: what is known of the room, and what follows from it.

Owns: the fold of what the provider says (events, which come late, twice, in any order or never, and lists, which are the truth of their
moment) into ``Facts``; and ``next_step``, the one rule of what to do about it and when to look again.
Refuses: counting people up and down, and identities: a participant is one stay in one room, told by its ``sid``; a room that was made
again under its name is another one, told by its own. Who has left does not come back under the same ``sid``.
Limits: of the people who have gone the last ``MAX_PEOPLE`` are remembered. Times are seconds by one clock, the database's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Self

from sessions_app.domain.states import Reason, State

MAX_PEOPLE: Final = 64
MAX_ROOMS: Final = 32
SETTLE_S: Final = 2.0  # a list may not have yet who came this short a time ago
PATIENCE_S: Final = 5.0  # a deadline waits this long for a provider that cannot be asked whether it was met
MAX_SID_CHARS: Final = 64
HUNG_UP: Final = "CLIENT_INITIATED"  # a participant left of its own will
SWEPT_OUT: Final = frozenset({"SERVER_SHUTDOWN", "MIGRATION"})  # the provider put them out to take them in again
UNNAMED: Final = ""  # the room that was just made, until its own id is known


class RoomIs(StrEnum):
    """What became of a room."""

    OPEN = "open"
    LOST = "lost"  # the provider has it no more, and did not say why
    FINISHED = "finished"  # the provider said so


class PersonIs(StrEnum):
    """What became of somebody in a room."""

    HERE = "here"
    MISSING = "missing"  # a list was without them
    GONE = "gone"  # the provider said that they left


@dataclass(slots=True)
class Person:
    """One stay of one participant in one room.

    Attributes:
        role: ``user``, ``agent`` or ``other``.
        room: The sid of the room.
        now: What became of them.
        audio: They had sound at some time.
        why: Why they left, in the provider's word.
        known_at: When the platform first heard of them, in seconds.
    """

    role: str
    room: str
    now: PersonIs = PersonIs.HERE
    audio: bool = False
    why: str = ""
    known_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Happening:
    """One event of a room. ``kind`` is one of those of the provider's ``RoomEvent``; others change nothing."""

    kind: str
    room: str
    at: float
    person: str = ""
    role: str = "other"
    audio: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """One participant of a list."""

    sid: str
    role: str
    audio: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """What the provider had when it was asked, at ``at``: ``room`` is None where it has no such room."""

    room: str | None
    people: tuple[Listed, ...]
    at: float


@dataclass(slots=True)
class Facts:
    """All that is known of one session's room. Folding is idempotent, and the order of events does not matter."""

    rooms: dict[str, RoomIs] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)

    # --- what is so now ----------------------------------------------------------------------------------------------
    @property
    def is_open(self) -> bool:
        """Whether there is a room."""
        return RoomIs.OPEN in self.rooms.values()

    @property
    def was_finished(self) -> bool:
        """Whether the provider ended the room, and there is no other one: not where it only put the people out for a while."""
        return not self.is_open and any(
            now is RoomIs.FINISHED and not any(each.room == sid and each.why in SWEPT_OUT for each in self.people.values())
            for sid, now in self.rooms.items()
        )

    @property
    def user_is_here(self) -> bool:
        """Whether the session's user is in the room."""
        return any(self._is_here(each) for each in self.people.values() if each.role == "user")

    @property
    def agent_is_here(self) -> bool:
        """Whether an agent is in the room, and was heard."""
        return any(self._is_here(each) and each.audio for each in self.people.values() if each.role == "agent")

    @property
    def agent_hung_up(self) -> bool:
        """Whether the agent that was here left of its own will, with none after it."""
        agents = [each for each in self.people.values() if each.role == "agent" and each.audio]
        return bool(agents) and not self.agent_is_here and max(agents, key=lambda each: each.known_at).why == HUNG_UP

    @property
    def agent_was_lost(self) -> bool:
        """Whether there was an agent, which left without meaning to."""
        was = any(each.role == "agent" and each.audio for each in self.people.values())
        return was and not self.agent_is_here and not self.agent_hung_up

    def _is_here(self, person: Person) -> bool:
        return person.now is PersonIs.HERE and self.rooms.get(person.room, RoomIs.OPEN) is RoomIs.OPEN

    # --- the fold ----------------------------------------------------------------------------------------------------
    def was_made(self) -> None:
        """The platform made a room, whose own id it does not know yet."""
        if not self.is_open:
            self.rooms[UNNAMED] = RoomIs.OPEN

    def happened(self, event: Happening) -> None:
        """Take in what an event says."""
        room, person = event.room[:MAX_SID_CHARS], event.person[:MAX_SID_CHARS]
        if event.kind == "room_finished":
            self._name(room)
            self.rooms[room] = RoomIs.FINISHED
        elif event.kind in _TELL_OF_A_ROOM:
            self._name(room)
            self.rooms.setdefault(room, RoomIs.OPEN)
        if person and event.kind in _TELL_OF_PEOPLE:
            self._met(person, event)
        self._forget()

    def were_listed(self, listing: Listing) -> None:
        """Take in what the provider had when it was asked."""
        if listing.room is not None:
            self._name(listing.room)
        for sid, now in self.rooms.items():
            if now is RoomIs.OPEN and sid != listing.room:
                self.rooms[sid] = RoomIs.LOST
        if listing.room is not None and self.rooms.get(listing.room) is not RoomIs.FINISHED:
            self.rooms[listing.room] = RoomIs.OPEN
        listed = {each.sid: each for each in listing.people}
        for sid, person in self.people.items():
            if person.now is PersonIs.HERE and sid not in listed and person.known_at < listing.at - SETTLE_S:
                person.now = PersonIs.MISSING
        for sid, each in listed.items():
            person = self.people.setdefault(sid[:MAX_SID_CHARS], Person(each.role, listing.room or UNNAMED, known_at=listing.at))
            person.audio |= each.audio
            if person.now is PersonIs.MISSING:
                person.now = PersonIs.HERE
        self._forget()

    def _name(self, room: str) -> None:
        """A room's own id is known: the one without a name is this one."""
        if room != UNNAMED and self.rooms.pop(UNNAMED, None) is not None:
            self.rooms.setdefault(room, RoomIs.OPEN)

    def _met(self, sid: str, event: Happening) -> None:
        person = self.people.get(sid)
        if person is None:
            person = self.people[sid] = Person(event.role, event.room[:MAX_SID_CHARS], known_at=event.at)
        person.audio |= event.audio
        if event.kind in _TELL_OF_LEAVING:
            person.now, person.why = PersonIs.GONE, event.why[:MAX_SID_CHARS]

    def _forget(self) -> None:
        gone = sorted((each.known_at, sid) for sid, each in self.people.items() if each.now is not PersonIs.HERE)
        for _, sid in gone[: max(0, len(self.people) - MAX_PEOPLE)]:
            del self.people[sid]
        closed = [sid for sid, now in self.rooms.items() if now is not RoomIs.OPEN]
        for sid in closed[: max(0, len(self.rooms) - MAX_ROOMS)]:
            del self.rooms[sid]

    # --- as it is kept -------------------------------------------------------------------------------------------------
    def to_json(self) -> dict[str, object]:
        """Return what ``from_json`` reads."""
        people = {sid: [each.role, each.room, each.now, each.audio, each.why, each.known_at] for sid, each in self.people.items()}
        return {"rooms": dict(self.rooms), "people": people}

    @classmethod
    def from_json(cls, kept: Mapping[str, object]) -> Self:
        """Return what was kept; what cannot be read is as if it had never been heard of: the next list tells it."""
        facts = cls()
        rooms, people = kept.get("rooms"), kept.get("people")
        try:
            if isinstance(rooms, Mapping):
                facts.rooms = {str(sid): RoomIs(now) for sid, now in rooms.items()}
            if isinstance(people, Mapping):
                facts.people = {str(sid): _person(row) for sid, row in people.items()}
        except (TypeError, ValueError):
            return cls()
        return facts


_TELL_OF_PEOPLE: Final = frozenset({
    "participant_joined", "participant_left", "participant_aborted", "track_published", "track_unpublished",
})  # fmt: skip
_TELL_OF_A_ROOM: Final = _TELL_OF_PEOPLE | {"room_started"}
_TELL_OF_LEAVING: Final = frozenset({"participant_left", "participant_aborted"})


def _person(row: Iterable[object]) -> Person:
    role, room, now, audio, why, known_at = row
    return Person(str(role), str(room), PersonIs(str(now)), bool(audio), str(why), float(str(known_at)))


# --- what follows from it ---------------------------------------------------------------------------------------------------
class Do(StrEnum):
    """What to do about a session and its room."""

    NOTHING = "nothing"
    ASK = "ask"  # list the room and who is in it, then decide again
    JOIN = "join"  # the session is active
    LEAVE = "leave"  # its grace begins
    REMAKE = "remake"  # make the room again under its name
    DISPATCH = "dispatch"  # ask for an agent once more
    OTHER = "other"  # go to another backend
    END = "end"  # remove the room, then give the slot back
    CLOSE = "close"  # the session is over: remove the room


@dataclass(frozen=True, slots=True)
class Life:
    """One session as the ledger and its room's record have it. Times in seconds by the database's clock; None: no such deadline.

    Attributes:
        state: The slot's; None where the session holds none (any more).
        asked_to_end: Why somebody wants it to end; None where nobody does.
        join_by: When the user must be in the room; None once they were.
        agent_by: When an agent must be there; None where none is expected, or one is.
        agent_tries: How often an agent was asked for again.
        lease_until: End of the grace while reconnecting.
        dropped_at: When the user was last there, while reconnecting.
        unresumed: What it ends with where nobody comes back.
        active_at: When it became active.
        max_duration_s, idle_timeout_s: The quota's.
        agent_timeout_s: How long an agent may take; None: none is expected.
        on_agent_absent: ``retry``, ``other`` or ``end``.
    """

    state: State | None
    asked_to_end: Reason | None = None
    join_by: float | None = None
    agent_by: float | None = None
    agent_tries: int = 0
    lease_until: float | None = None
    dropped_at: float | None = None
    unresumed: Reason = Reason.CLIENT_LOST
    active_at: float | None = None
    max_duration_s: float | None = None
    idle_timeout_s: float | None = None
    agent_timeout_s: float | None = None
    on_agent_absent: str = "retry"


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now.

    Attributes:
        do: It.
        reason: Of an end.
        detail: Of an end, for people.
        due: When to look again, where nothing is to be done until then; None: when something happens.
        since: When the deadline was that an end follows from.
    """

    do: Do
    reason: Reason | None = None
    detail: str = ""
    due: float | None = None
    since: float | None = None


class Asked(StrEnum):
    """Whether the provider was asked who is in the room, just now."""

    NO = "no"
    YES = "yes"
    IN_VAIN = "in_vain"


def next_step(life: Life, facts: Facts, *, now: float, asked: Asked) -> Step:
    """Return what is to be done next about a session whose room was prepared.

    A deadline that was missed by what the platform knows is first held against the provider's own list, since events get lost.
    """
    step = Step(Do.NOTHING)
    if life.state is None:
        step = Step(Do.CLOSE)
    elif life.asked_to_end is not None:
        step = Step(Do.END, life.asked_to_end)
    elif facts.was_finished:
        step = Step(Do.END, Reason.PROVIDER_ENDED, "the room was ended by its provider")
    elif not facts.is_open and facts.rooms:
        step = Step(Do.REMAKE)
    elif facts.user_is_here and life.state is not State.ACTIVE:
        step = Step(Do.JOIN)
    elif life.state is State.ACTIVE and not facts.user_is_here:
        step = Step(Do.LEAVE)
    return step if step.do is not Do.NOTHING else _deadlines(life, facts, now=now, asked=asked)


def _deadlines(life: Life, facts: Facts, *, now: float, asked: Asked) -> Step:
    missed: list[tuple[float, Step]] = []
    ahead: list[float] = []

    def deadline(at: float | None, step: Step, *, sure: bool = False) -> None:
        """``sure``: nothing that the provider could say changes it."""
        if at is None:
            return
        if at > now:
            ahead.append(at)
        elif sure or asked is Asked.YES or now >= at + PATIENCE_S:
            missed.append((at, step))
        elif asked is Asked.IN_VAIN:
            ahead.append(now + 1.0)
        else:
            missed.append((at, Step(Do.ASK)))

    if life.active_at is not None and life.max_duration_s is not None:
        deadline(life.active_at + life.max_duration_s, Step(Do.END, Reason.MAX_DURATION), sure=True)
    if life.state is State.STARTING:
        deadline(life.join_by, Step(Do.END, Reason.CLIENT_LOST, "the user never joined the room"))
    if life.state is State.RECONNECTING:
        deadline(life.lease_until, Step(Do.END, life.unresumed))
        if life.dropped_at is not None and life.idle_timeout_s is not None:
            deadline(life.dropped_at + life.idle_timeout_s, Step(Do.END, Reason.IDLE_TIMEOUT, "nobody was there"))
    if life.agent_timeout_s is not None and not facts.agent_is_here:
        deadline(life.agent_by, _without_agent(life, facts))
    if missed:
        at, step = min(missed, key=lambda each: each[0])
        return replace(step, since=at)
    return Step(Do.NOTHING, due=min(ahead, default=None))


def _without_agent(life: Life, facts: Facts) -> Step:
    if facts.agent_hung_up:
        return Step(Do.END, Reason.PROVIDER_ENDED, "the agent hung up")
    if life.agent_tries == 0 and life.on_agent_absent == "retry":
        return Step(Do.DISPATCH)
    if life.agent_tries == 0 and life.on_agent_absent == "other":
        return Step(Do.OTHER)
    return Step(Do.END, Reason.AGENT_ABSENT, "no agent joined the room")
