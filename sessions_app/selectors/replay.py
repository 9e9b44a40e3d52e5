"""The history, replayed: what each start and end of a session did to what is in use, against the limits in force at that moment.

Counts from the events alone: never from counters, slots or the vectors that verdicts were stored with; those are compared at the end.
All events of one ledger transaction have one sequence number, and only its outcome was ever visible: limits are checked after the last.
Numbers are taken under the locks of the scopes, so that within a scope their order is that of the commits.

A tenant's limit is the most that it may have, its burst included. A limit lowered below what is in use ends nobody: wrong is only to let
one more into a scope that is then above its limit. Whether a start was a burst, and one that was allowed, and whether it left free what
others had reserved, is in ``replay_starts``. Health is not in the history, and needs not be: nobody starts on a backend that is ill, so
what is reserved there is kept from nobody. Up to the horizon of a prune the history has gaps: there it is only counted, and compared with
the opening balance. Before the record of who may use which backend began, nobody can say where reservations stood: there they are not
looked at.

Pure, in constant memory for each live session and each scope: rows come from ``verification``, in the order of their numbers.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from uuid import UUID

from sessions_app.domain.states import LIVE_STATES, SLOT_STATES, TRANSITIONS
from sessions_app.selectors.replay_limits import PLATFORM, Access, InForce, Kept, Limit, Override, Scope
from sessions_app.selectors.replay_starts import ASKED, MOVED, WAITED, Check, Start

_SLOT: Final = frozenset(state.value for state in SLOT_STATES)
_LIVE: Final = frozenset(state.value for state in LIVE_STATES)
# To the same state: a move to another backend, a client taken over by another node, a note in the history.
_ALLOWED: Final = {(old.value if old else "", new.value) for old, news in TRANSITIONS.items() for new in news} | {
    (state, state) for state in _LIVE
}


class Findings:
    """Sentences for people: the first ``most`` of them, and how many there were."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self.sentences: list[str] = []

    def add(self, sentence: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.sentences) < self.most:
            self.sentences.append(sentence)


class Event(NamedTuple):
    """A ``SessionEvent``, ``at_us`` in microseconds since 1970; the last four are of its session, and known with its first event only.

    ``burst`` is also known with the event that lets in who waited.
    """

    id: int
    seq: int
    session_id: UUID
    old: str
    new: str
    at_us: int
    tenant_id: int
    backend_id: int | None
    session_tenant_id: int | None = None
    user: str | None = None
    first: bool | None = None
    burst: bool | None = None


class Live(NamedTuple):
    """A session that waits or lives. ``user`` is None where the history does not tell."""

    state: str
    tenant_id: int
    backend_id: int
    user: str | None


class Replay:
    """Feed it with ``limit``, ``override``, ``access`` and ``event``, in the order of their numbers; then ask ``settle``, then ``compare``.

    Args:
        horizon: The number up to which the history was pruned.
        opening: What was in use then.
        access_since: The number from which on it is known who may use which backend.
        found: What is found goes there.
    """

    def __init__(self, *, horizon: int, opening: Mapping[Scope, int], access_since: int, found: Findings) -> None:
        self.live: dict[UUID, Live] = {}
        self.used: dict[Scope, int] = {}
        self.events = self.attempts = self.admissions = self.limits = 0
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.last_seq = 0
        self._found = found
        self._horizon = horizon
        self._opening: Mapping[Scope, int] | None = opening if horizon else None
        self._access_since = access_since
        self._in_force, self._kept = InForce(), Kept()
        self._without: set[Scope] = set()  # no limit is on record, which was said
        self._entered: set[Scope] = set()
        self._starts: list[Start] = []
        self._before: dict[Scope, int] = {}  # in use of each tenant that this transaction touched, before it
        self._check_of_starts = Check(self.used, self._place_of, in_force=self._in_force, kept=self._kept)
        self._last_ids: dict[int, int] = {}  # of each tenant
        self._turn_us: int | None = None

    # --- what happened ---------------------------------------------------------------------------------------------------
    def limit(self, limit: Limit) -> None:
        """Put a limit in force."""
        self._turn(limit.seq, None)
        self.limits += 1
        self._in_force.put(limit)
        self._kept.put(limit)

    def override(self, override: Override) -> None:
        """Change a tenant's limit for a time; one that changes it by nothing takes the one before it away."""
        self._turn(override.seq, None)
        self.limits += 1
        self._in_force.override(override, now_us=self.last_us or 0)

    def access(self, access: Access) -> None:
        """Let a tenant use a backend, or no more."""
        self._turn(access.seq, None)
        self.limits += 1
        self._kept.access(access)

    def event(self, event: Event) -> None:
        """Count one event, and say what is wrong with it."""
        if event.seq != self.last_seq or self._turn_us is None:
            self._turn(event.seq, event.at_us)
        elif event.at_us != self._turn_us:
            self._found.add(f"event {event.id} has sequence number {event.seq} and another time than the rest of that transaction")
        self.events += 1
        was = self.live.get(event.session_id)
        sound = self._check(event, was)
        self._count(event, was, sound)

    def settle(self) -> None:
        """Check what the last transaction left."""
        self._close()
        if self._opening is not None:
            self._cross()

    # --- one transaction -------------------------------------------------------------------------------------------------
    def _turn(self, seq: int, at_us: int | None) -> None:
        """Go on to the next transaction: of the ledger, or (without a time) of an edit."""
        if seq == self.last_seq:
            self._found.add(f"sequence number {seq} was given out twice: to a change of a limit, and to something else")
        self._close()
        if self._opening is not None and seq > self._horizon:
            self._cross()
        self.last_seq, self._turn_us = seq, at_us
        if at_us is not None:
            self.first_us = at_us if self.first_us is None else self.first_us
            self.last_us = at_us

    def _close(self) -> None:
        if self.last_seq > self._horizon:
            for scope in self._entered:
                limit, used = self._limit_of(scope), self.used.get(scope, 0)
                if limit is not None and used > limit:
                    self._found.add(
                        f"at sequence number {self.last_seq} {name_of(scope)} let one in and had {used} in use, its limit was {limit}"
                    )
            if self._starts:
                self._check_starts()
        self._entered.clear()
        self._starts.clear()
        self._before.clear()

    def _check_starts(self) -> None:
        check, reserved = self._check_of_starts, self.last_seq > self._access_since
        for start, what in (*check.marks(self._starts, self._before, self._turn_us or 0), *check.places(self._starts, reserved=reserved)):
            self._found.add(f"at sequence number {self.last_seq} session {start.session_id} of tenant {start.tenant_id} started {what}")

    def _place_of(self, session_id: UUID) -> int | None:
        live = self.live.get(session_id)
        return live.backend_id if live is not None and live.state in _SLOT else None

    def _limit_of(self, scope: Scope) -> int | None:
        try:
            return self._in_force.of(scope, self._turn_us or 0)
        except KeyError:
            of = ("tenant", scope[1], "") if scope[0] == "user" else scope
            if of not in self._without:
                self._without.add(of)
                self._found.add(f"at sequence number {self.last_seq} no limit of {name_of(of)} is on record")
            return None

    def _cross(self) -> None:
        opening, self._opening = self._opening or {}, None
        for scope in sorted({*opening, *self.used}):
            said, counted = opening.get(scope, 0), self.used.get(scope, 0)
            if said != counted:
                self._found.add(
                    f"the opening balance of {name_of(scope)} says {said} in use at sequence number {self._horizon},"
                    f" the history says {counted}"
                )

    # --- one event -------------------------------------------------------------------------------------------------------
    def _check(self, event: Event, was: Live | None) -> bool:
        """Say what is wrong with an event's place in the history; False where what it says of itself is not to be believed."""
        state = was.state if was is not None else ""
        last_id = self._last_ids.get(event.tenant_id, 0)
        if event.id < last_id:
            self._wrong(event, f"has sequence number {event.seq} and was written before event {last_id}, whose number is not higher")
        self._last_ids[event.tenant_id] = event.id
        if event.old != state:
            self._wrong(event, f"goes from {event.old or 'nothing'} to {event.new}, but the event before it left {state or 'nothing'}")
        elif (event.old, event.new) not in _ALLOWED:
            self._wrong(event, f"goes from {event.old or 'nothing'} to {event.new}, which no session does")
        elif was is None and not event.first:
            self._wrong(event, "begins a session that has begun before")
        else:
            self.attempts += was is None
            self._check_place(event, was)
            return True
        return False

    def _check_place(self, event: Event, was: Live | None) -> None:
        if was is None:
            if event.tenant_id != event.session_tenant_id:
                self._wrong(event, f"is of tenant {event.tenant_id}, its session of tenant {event.session_tenant_id}")
            return
        if event.tenant_id != was.tenant_id:
            self._wrong(event, f"is of tenant {event.tenant_id}, the one before it of tenant {was.tenant_id}")
        if event.backend_id != was.backend_id and was.state in _SLOT and was.state != event.new:
            self._wrong(event, f"is on backend {event.backend_id}, the one before it on backend {was.backend_id}")

    def _wrong(self, event: Event, what: str) -> None:
        self._found.add(f"event {event.id} of session {event.session_id} {what}")

    def _count(self, event: Event, was: Live | None, sound: bool) -> None:
        now = None
        if event.new in _LIVE:
            user = was.user if was is not None else event.user
            now = Live(event.new, event.tenant_id, event.backend_id or 0, user)
            self.live[event.session_id] = now
        elif was is not None:
            del self.live[event.session_id]
        held, holds = scopes_of(was), scopes_of(now)
        if held != holds:
            self._take(held, holds, sound)
            self._place(event, was if held else None, now if holds else None, sound)

    def _take(self, held: tuple[Scope, ...], holds: tuple[Scope, ...], sound: bool) -> None:
        used = self.used
        for scope in held[1:2] or holds[1:2]:
            self._before.setdefault(scope, used.get(scope, 0))
        for scope in held:
            if scope not in holds:
                if used[scope] == 1:
                    del used[scope]
                else:
                    used[scope] -= 1
        for scope in holds:
            if scope not in held:
                used[scope] = used.get(scope, 0) + 1
                if sound:
                    self._entered.add(scope)
        self.admissions += bool(holds and not held)

    def _place(self, event: Event, was: Live | None, now: Live | None, sound: bool) -> None:
        """Note that a session gets a slot, gives it back, or has it somewhere else from now on."""
        if was is not None:
            self._kept.count(was.tenant_id, was.backend_id, -1)
        if now is not None:
            self._kept.count(now.tenant_id, now.backend_id, 1)
            if sound:
                how = MOVED if was is not None else WAITED if event.old else ASKED
                self._starts.append(Start(event.session_id, now.tenant_id, now.backend_id, how, event.burst))

    # --- the end ---------------------------------------------------------------------------------------------------------
    def compare(self, *, slots: Iterable[tuple[UUID, str, int, int, str]], counters: Iterable[tuple[str, int, int]]) -> None:
        """Compare what the history leaves with the slots (session, state, tenant, backend, user) and counters (scope, ref, active)."""
        holding = {session_id for session_id, live in self.live.items() if live.state in _SLOT}
        for session_id, *slot in slots:
            live = self.live.get(session_id)
            if live is None or session_id not in holding:
                self._found.add(f"session {session_id} has a slot, by the history it has none")
            elif slot[:3] != [live.state, live.tenant_id, live.backend_id] or live.user not in {None, slot[3]}:
                self._found.add(
                    f"the slot of session {session_id} is {slot[0]} for tenant {slot[1]} and user {slot[3]!r} on backend {slot[2]}, by the"
                    f" history {live.state} for tenant {live.tenant_id} and user {live.user!r} on backend {live.backend_id}"
                )
            holding.discard(session_id)
        for session_id in sorted(holding):
            self._found.add(f"session {session_id} is {self.live[session_id].state} by the history, and has no slot")
        counted = {scope[:2]: used for scope, used in self.used.items() if scope[0] in {"tenant", "backend"}}
        for name, ref, active in counters:
            self._compare_counter(name, ref, active, counted.pop((name, ref), 0))
        for (name, ref), used in sorted(counted.items()):
            self._compare_counter(name, ref, 0, used)

    def _compare_counter(self, name: str, ref: int, active: int, counted: int) -> None:
        if active != counted:
            self._found.add(f"counter of {name} {ref} says {active} in use, the history says {counted}")


def scopes_of(live: Live | None) -> tuple[Scope, ...]:
    """Return the scopes that a session counts in; none where it holds no slot."""
    if live is None or live.state not in _SLOT:
        return ()
    scopes: tuple[Scope, ...] = (PLATFORM, ("tenant", live.tenant_id, ""), ("backend", live.backend_id, ""))
    return scopes if live.user is None else (*scopes, ("user", live.tenant_id, live.user))


def name_of(scope: Scope) -> str:
    """Return a scope as people say it."""
    name, ref, user = scope
    if name == "platform":
        return "the platform"
    return f"user {user!r} of tenant {ref}" if name == "user" else f"{name} {ref}"
