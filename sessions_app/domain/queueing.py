"""The queue: who is promoted next, at which place everybody stands, and how long that may take. Pure, as the decision is.

Order of promotion: effective priority (the tenant's, and one step more for each 30 s waited), then the tenant that has the smallest
share of its weight in use (its sessions / its weight, with those promoted in this batch), then first come. Ageing is counted from
when a session began to wait, also across a reconnect. Within a tenant, whose waiters all have its priority, this is first come.

A waiter whose client is gone for the moment (``present`` is False) keeps its place and is passed over: the slot goes to the next one,
and the waiter is asked again with the next slot after its return. A waiter whose own tenant, user or backend has no room blocks nobody
who asks for something else.

Limits: the share is of all that a tenant has, on whichever backend. Two waiters who differ by more than 30 s are ordered by their
ages before their tenants' weights are looked at; that is what keeps everybody moving.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final
from uuid import UUID

from sessions_app.domain import admission
from sessions_app.domain.admission import Verdict
from sessions_app.domain.world import Attempt, BackendView, Scope, TenantView, Unseen, World

AGEING_S: Final = 30
FEWEST_RELEASES: Final = 3  # one or two say nothing about how often slots become free


@dataclass(frozen=True, slots=True)
class Waiter:
    """An attempt that waits since ``since`` seconds. ``place`` orders those who came at the same time; ``present``: its client is here."""

    attempt: Attempt
    since: float
    place: int = 0
    present: bool = True


@dataclass(frozen=True, slots=True)
class Promotion:
    """A waiter that has a slot now, as ``verdict`` says."""

    waiter: Waiter
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Place:
    """How many would be promoted before this one, plus 1, and the scope whose releases it waits for."""

    position: int
    waits_for: Scope


Ask = tuple[str, str, str, frozenset[int]]
_Room = tuple[Ask, frozenset[int], bool]
_Key = tuple[int, float, float, int, int]


def promote(world: World, waiters: Iterable[Waiter]) -> list[Promotion]:
    """Give slots to waiters, best first, until none of them fits; their tenants' ``queued`` goes down, the other counts up.

    ``waiters`` may be a part of the queue, so long as it misses nobody who came before one that it has of the same tenant and user with the
    same wishes, and ``world.unseen`` says where it ends: of their tenant nobody who came later is let in while there is room for those.
    Waiters of tenants that are not in the world are left alone.

    It looks at each waiter once, and what a promotion costs beyond that grows by the logarithm of the tenants that wait: handing out
    slots only makes less room, so who does not fit once is not asked again, nor is anybody else who would be refused for the same reason.
    """
    if world.full or not any(each.healthy and not each.draining and not each.full for each in world.backends.values()):
        return []
    return _Round(world, waiters).run()


def suspended(world: World, waiters: Iterable[Waiter]) -> list[Waiter]:
    """Return those whose tenant was suspended meanwhile: they are to be rejected."""
    return [each for each in waiters if (tenant := world.tenants.get(each.attempt.tenant_id)) is not None and tenant.suspended]


def estimate(position: int, *, releases: int, over_s: float) -> float | None:
    """Return in how many seconds this position may be let in, after ``releases`` in the last ``over_s`` seconds; None: unknown."""
    if releases < FEWEST_RELEASES or over_s <= 0:
        return None
    return position * over_s / releases


def effective_priority(tenant: TenantView, waiter: Waiter, now: float) -> int:
    """Return the tenant's priority and the steps that the waiter has gained by waiting."""
    return tenant.priority + int(max(0.0, now - waiter.since) // AGEING_S)


def _key(world: World, tenant: TenantView, waiter: Waiter, used: int | None = None) -> _Key:
    share = (tenant.used if used is None else used) / tenant.weight
    return -effective_priority(tenant, waiter, world.now), share, waiter.since, waiter.place, tenant.id


def _ask(attempt: Attempt) -> Ask:
    return attempt.pipeline, attempt.transport, attempt.backend, attempt.exclude


def _came(waiter: Waiter) -> tuple[float, int]:
    return waiter.since, waiter.place


# --- places -------------------------------------------------------------------------------------------------------------
def positions(world: World, waiters: Iterable[Waiter]) -> dict[UUID, Place]:
    """Return everybody's place by session id, as if slots became free one at a time and the clock stood still. The world is not changed.

    A place counts those ahead who compete for what this one waits for. That are: of a tenant or user that is at its own limit, its own
    sessions that wait; for others, and where no backend has room, whoever may go to the same backends (to any, where the platform is full)
    and is not held back by a limit of its own. Who is away for the moment counts, since it keeps its place. Sessions of suspended
    tenants, and of tenants that are not in the world, have none.
    """
    return _Places(world).of(waiters)


class _Places:
    """One call of ``positions``: a walk through the order of promotion in which each who passes is counted."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.used = {each.id: each.used for each in world.tenants.values()}
        self.user_used = dict(world.user_used)
        self.targets: dict[tuple[Ask, frozenset[int]], frozenset[int]] = {}
        self.free: Counter[frozenset[int]] = Counter()  # who passed and is not held back, by the backends that they may go to
        self.free_of: dict[int, Counter[frozenset[int]]] = {}
        self.own: Counter[int] = Counter()  # who passed, by tenant
        self.held: Counter[tuple[int, str]] = Counter()  # who passed held back by the limit of a user

    def of(self, waiters: Iterable[Waiter]) -> dict[UUID, Place]:
        lines: dict[int, deque[Waiter]] = {}
        for waiter in sorted(waiters, key=_came):
            tenant = self.world.tenants.get(waiter.attempt.tenant_id)
            if tenant is not None and not tenant.suspended:
                lines.setdefault(tenant.id, deque()).append(waiter)
        heap = [_key(self.world, self.world.tenants[tenant_id], line[0]) for tenant_id, line in lines.items()]
        heapify(heap)
        places: dict[UUID, Place] = {}
        while heap:
            tenant = self.world.tenants[heap[0][-1]]
            line = lines[tenant.id]
            waiter = line.popleft()
            places[waiter.attempt.session_id] = self._pass(tenant, waiter.attempt)
            if line:
                heapreplace(heap, _key(self.world, tenant, line[0], self.used[tenant.id]))
            else:
                heappop(heap)
        return places

    def _pass(self, tenant: TenantView, attempt: Attempt) -> Place:
        """Return the place of who is next in the order, and count it for those behind."""
        user = tenant.id, attempt.user
        user_held = tenant.user_limit is not None and self.user_used.get(user, 0) >= tenant.user_limit
        held = user_held or (tenant.limit is not None and self.used[tenant.id] >= tenant.limit)
        targets = self._targets(tenant, attempt)
        apart = held or not targets
        own = self.free_of.setdefault(tenant.id, Counter())
        ahead = self.held[user] if user_held else 0
        if apart:
            ahead += self.own[tenant.id]
        if not apart or self._blocked(tenant, targets):
            for others, count in self.free.items():
                if targets and (self.world.full or not targets.isdisjoint(others)):
                    ahead += count - (own[others] if apart else 0)
        if user_held:
            self.held[user] += 1
        else:
            self.own[tenant.id] += 1
        if not apart:
            self.free[targets] += 1
            own[targets] += 1
        if not held:
            self.used[tenant.id] += 1
            self.user_used[user] = self.user_used.get(user, 0) + 1
        if held:
            return Place(ahead + 1, Scope.USER if user_held else Scope.TENANT)
        return Place(ahead + 1, Scope.PLATFORM if self.world.full else Scope.BACKEND)

    def _blocked(self, tenant: TenantView, targets: frozenset[int]) -> bool:
        """Say whether no backend has room for it now, whatever its own limits are."""
        backends = [self.world.backends[each] for each in targets]
        return self.world.full or all(not each.healthy or each.draining or each.full_for(tenant.id) for each in backends)

    def _targets(self, tenant: TenantView, attempt: Attempt) -> frozenset[int]:
        """Return the backends that it may go to; those that are ill just now will be well again."""
        key = _ask(attempt), tenant.backends
        if key not in self.targets:
            self.targets[key] = frozenset(each.id for each in admission.fitting(self.world, tenant, attempt)[0])
        return self.targets[key]


# --- promotion ----------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Line:
    """The waiters of one tenant that may fit, first come first within each ask. Only the first of all competes with other tenants."""

    tenant: TenantView
    by_ask: dict[Ask, deque[Waiter]] = field(default_factory=dict)

    def first(self, world: World) -> Waiter | None:
        """Return who is next, after leaving out those whose user has as many sessions as it may have."""
        limit = self.tenant.user_limit
        if limit is not None:
            for ask, queue in list(self.by_ask.items()):
                while queue and world.user_used.get((self.tenant.id, queue[0].attempt.user), 0) >= limit:
                    queue.popleft()
                if not queue:
                    del self.by_ask[ask]
        heads = [each[0] for each in self.by_ask.values()]
        return min(heads, key=_came) if len(heads) > 1 else next(iter(heads), None)

    def take(self, waiter: Waiter) -> None:
        """Let the first one go."""
        ask = _ask(waiter.attempt)
        self.by_ask[ask].popleft()
        if not self.by_ask[ask]:
            del self.by_ask[ask]
        self.tenant.queued = max(0, self.tenant.queued - 1)


class _Round:
    """One call of ``promote``.

    What room there is for an ask is the same for every tenant that has reserved nothing, and they may be ten thousand: ``rooms`` remembers
    it (by ask, backends, and whether a burst is needed), and when none is left the round is over.
    """

    def __init__(self, world: World, waiters: Iterable[Waiter]) -> None:
        self.world = world
        self.rooms: dict[_Room, bool] = {}
        self.open: set[_Room] = set()
        self.targets: dict[tuple[Ask, frozenset[int]], list[BackendView]] = {}
        self.backends: dict[int, BackendView] = {}
        self.lines: dict[int, _Line] = {}
        self.unseen: dict[int, list[Unseen]] = {}
        for each in world.unseen:
            self.unseen.setdefault(each.attempt.tenant_id, []).append(each)
        tenants = {each.id: each for each in world.tenants.values() if not each.full and not each.suspended}
        self.holders = {each for backend in world.backends.values() for each in backend.reservations.holders()}
        for waiter in sorted(waiters, key=_came):
            tenant = tenants.get(waiter.attempt.tenant_id)
            if tenant is None or not waiter.present or not self._room(tenant, waiter.attempt):
                continue
            line = self.lines.get(tenant.id)
            if line is None:
                line = self.lines[tenant.id] = _Line(tenant)
            line.by_ask.setdefault(_ask(waiter.attempt), deque()).append(waiter)
        self.holders &= self.lines.keys()
        self.heap = [_key(world, line.tenant, first) for line in self.lines.values() if (first := self._first(line)) is not None]
        heapify(self.heap)

    def run(self) -> list[Promotion]:
        promoted: list[Promotion] = []
        while self.heap and not self._over():
            line = self.lines[heappop(self.heap)[-1]]
            waiter = self._first(line)
            if waiter is None:
                continue
            verdict = admission.admit(self.world, waiter.attempt) if self._room(line.tenant, waiter.attempt) else None
            if verdict is not None and verdict.admitted:
                promoted.append(Promotion(waiter, verdict))
                line.take(waiter)
            else:
                del line.by_ask[_ask(waiter.attempt)]
                self._note((_ask(waiter.attempt), line.tenant.backends, line.tenant.at_limit), room=False)
            following = self._first(line) if not line.tenant.full else None
            if following is not None:
                heappush(self.heap, _key(self.world, line.tenant, following))
        return promoted

    def _first(self, line: _Line) -> Waiter | None:
        """Return who of the tenant is next, unless somebody who was not looked at may come before."""
        first = line.first(self.world)
        if first is None:
            return None
        behind = (each for each in self.unseen.get(line.tenant.id, ()) if (each.since, each.place) < _came(first))
        return None if any(self._room(line.tenant, each.attempt) for each in behind) else first

    def _over(self) -> bool:
        return self.world.full or not (self.open or self.holders) or all(each.full for each in self.backends.values())

    def _room(self, tenant: TenantView, attempt: Attempt) -> bool:
        key = ask, backends, at_limit = _ask(attempt), tenant.backends, tenant.at_limit
        reserved = tenant.id in self.holders
        if not reserved and key in self.rooms:
            return self.rooms[key]
        found = self.targets.get((ask, backends))
        if found is None:
            found = self.targets[ask, backends] = admission.usable(self.world, tenant, attempt)[0]
            self.backends.update((each.id, each) for each in found)
        room = any(not each.full_for(tenant.id) and (each.calm or not at_limit) for each in found)
        if not reserved:
            self._note(key, room=room)
        return room

    def _note(self, key: _Room, *, room: bool) -> None:
        self.rooms[key] = room
        if room:
            self.open.add(key)
        else:
            self.open.discard(key)
