"""The history, replayed: what each start and end of a session did to what is in use, against the limits in force at that moment.

Counts from the events alone: never from counters, slots or the vectors that verdicts were stored with; those are compared at the end.
All events of one ledger transaction have one sequence number, and only its outcome was ever visible: limits are checked after the last.
Numbers are taken under the locks of the scopes, so that within a scope their order is that of the commits.

A tenant's limit is the most that it may have, its burst included. A limit lowered below what is in use ends nobody: wrong is only to let
one more into a scope that is then above its limit. Up to the horizon of a prune the history has gaps: there it is only counted, and
compared with the opening balance.

Pure, in constant memory for each live session and each scope: rows come from ``verification``, in the order of their numbers.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from uuid import UUID

from sessions_app.domain.states import LIVE_STATES, SLOT_STATES, TRANSITIONS, State

Scope = tuple[str, int, str]  # its name, the id of the tenant or backend (0: the platform), the user where it is one's
PLATFORM: Final[Scope] = ("platform", 0, "")

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
    """A ``SessionEvent``, ``at_us`` in microseconds since 1970; the last three are of its session, and known with its first event only."""

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


class Limit(NamedTuple):
    """Limits of a scope from this number on. None is unlimited; the last two are a tenant's."""

    seq: int
    scope: str
    ref: int
    limit: int | None
    user_limit: int | None = None
    burst: int = 0


class Override(NamedTuple):
    """What is added to one limit of a tenant from one time to another, in microseconds since 1970; as it is from this number on."""

    seq: int
    id: str
    tenant_id: int
    field: str
    change: int
    starts_us: int
    ends_us: int


class Live(NamedTuple):
    """A session that waits or lives. ``user`` is None where the history does not tell."""

    state: str
    tenant_id: int
    backend_id: int
    user: str | None


class Replay:
    """Feed it with ``limit`` and ``event``, in the order of their numbers; then ask ``settle``, then ``compare``."""

    def __init__(self, *, horizon: int, opening: Mapping[Scope, int], found: Findings) -> None:
        self.live: dict[UUID, Live] = {}
        self.used: dict[Scope, int] = {}
        self.events = self.attempts = self.admissions = self.limits = 0
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.last_seq = 0
        self._found = found
        self._horizon = horizon
        self._opening: Mapping[Scope, int] | None = opening if horizon else None
        self._in_force: dict[tuple[str, int], Limit | None] = {}
        self._overrides: dict[int, dict[str, Override]] = {}  # of each tenant
        self._entered: set[Scope] = set()
        self._last_ids: dict[int, int] = {}  # of each tenant
        self._turn_us: int | None = None

    # --- what happened ---------------------------------------------------------------------------------------------------
    def limit(self, limit: Limit) -> None:
        """Put a limit in force."""
        self._turn(limit.seq, None)
        self.limits += 1
        self._in_force[limit.scope, limit.ref if limit.scope != "platform" else 0] = limit

    def override(self, override: Override) -> None:
        """Change a tenant's limit for a time; one that changes it by nothing takes the one before it away."""
        self._turn(override.seq, None)
        self.limits += 1
        of_tenant = self._overrides.setdefault(override.tenant_id, {})
        of_tenant.pop(override.id, None)
        if override.change:
            of_tenant[override.id] = override

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
        self._entered.clear()

    def _limit_of(self, scope: Scope) -> int | None:
        name, ref, _ = scope
        key = ("tenant", ref) if name == "user" else (name, ref)
        try:
            limit = self._in_force[key]
        except KeyError:
            limit = self._in_force[key] = None  # said once
            self._found.add(f"at sequence number {self.last_seq} no limit of {name_of((*key, ''))} is on record")
        if limit is None:
            return None
        if name == "user":
            return self._overridden(ref, "max_sessions_per_user", limit.user_limit)
        if name != "tenant":
            return limit.limit
        own = self._overridden(ref, "max_concurrent_sessions", limit.limit)
        return own + (self._overridden(ref, "burst", limit.burst) or 0) if own is not None else None

    def _overridden(self, tenant_id: int, field: str, value: int | None) -> int | None:
        """Return a figure as it was at this transaction's time, which is the time that the ledger decided by."""
        if value is None or tenant_id not in self._overrides:
            return value
        at = self._turn_us or 0
        changes = (each for each in self._overrides[tenant_id].values() if each.field == field)
        return max(0, value + sum(each.change for each in changes if each.starts_us <= at < each.ends_us))

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
        if event.backend_id != was.backend_id and was.state in _SLOT and not was.state == event.new == State.STARTING:
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
        held, holds, used = scopes_of(was), scopes_of(now), self.used
        if held == holds:
            return
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
