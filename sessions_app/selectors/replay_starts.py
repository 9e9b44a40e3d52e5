"""The starts of one transaction of the ledger: did each have room beside what is kept for others, and is it marked as a burst if it is one?

The events of a transaction do not tell all of their order. The ledger lets in who waits in the order of the events, and who asks in theirs;
what is released comes first as a rule, but the end of a session that is also asked for in the same batch comes behind, and what it frees
may go to one more who waits. So each start is held against bounds of what was in use when it was decided: at least what the transaction
began with, without all that was released in it, and with those of its own kind that came before it; at most the same with nothing
released and with all of the other kind. Wrong is what no order explains; where nothing is released and one kind starts, that is exact.

Where a slot of a tenant is released in the transaction that starts another, a mark too many may thus go unseen; a tenant that may have no
burst has none whatever the order was. Sessions that begin and end in one transaction count for nobody.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from sessions_app.selectors.replay_limits import InForce, Kept, Scope

ASKED: Final = "asked"
WAITED: Final = "waited"
MOVED: Final = "moved"


class Start(NamedTuple):
    """A session that got a slot, or (``how`` is ``MOVED``) another backend. ``burst`` is None where its record is gone."""

    session_id: UUID
    tenant_id: int
    backend_id: int
    how: str
    burst: bool | None


class Check:
    """Of the starts of a transaction, which are given in the order of their events, when all of it was counted.

    Args:
        used: What is in use of each scope.
        place: The backend of a session; None where it holds no slot.
        in_force: The limits.
        kept: Where reserved slots are.
    """

    def __init__(self, used: Mapping[Scope, int], place: Callable[[UUID], int | None], *, in_force: InForce, kept: Kept) -> None:
        self._used = used
        self._place = place
        self._in_force = in_force
        self._kept = kept

    def marks(self, starts: Sequence[Start], before: Mapping[Scope, int], at_us: int) -> Iterator[tuple[Start, str]]:
        """Yield those whose mark of a burst is wrong, and why; ``before`` is what was in use of each tenant before the transaction."""
        let_in = [each for each in starts if each.how != MOVED]
        of_kind = Counter((each.tenant_id, each.how) for each in let_in) if len(let_in) > 1 else None
        stays = [self._place(each.session_id) is not None for each in let_in]
        least: dict[tuple[int, str], int] = {}
        most: dict[tuple[int, str], int] = {}
        stay = Counter(each.tenant_id for each, stayed in zip(let_in, stays, strict=True) if stayed) if of_kind else None
        for each, stayed in zip(let_in, stays, strict=True):
            key, scope = (each.tenant_id, each.how), ("tenant", each.tenant_id, "")
            other = of_kind[each.tenant_id, WAITED if each.how == ASKED else ASKED] if of_kind else 0
            low = self._used.get(scope, 0) - (stay[each.tenant_id] if stay is not None else stayed) + least.get(key, 0)
            high = before.get(scope, 0) + most.get(key, 0) + other
            most[key], least[key] = most.get(key, 0) + 1, least.get(key, 0) + stayed
            if each.burst is not None and (wrong := self._wrong_mark(each, low, high, at_us)):
                yield each, wrong

    def _wrong_mark(self, start: Start, low: int, high: int, at_us: int) -> str:
        try:
            limit, burst = self._in_force.of_tenant(start.tenant_id, at_us)
        except KeyError:
            return ""  # which is said elsewhere
        if not start.burst:
            return (
                f"with at least {low} in use and a limit of {limit}, and is not marked as a burst"
                if limit is not None and low >= limit
                else ""
            )
        if limit is None or not burst:
            return "and is marked as a burst, of which it may have none"
        return f"with no more than {high} in use and a limit of {limit}, and is marked as a burst" if high < limit else ""

    def places(self, starts: Sequence[Start], *, reserved: bool) -> Iterator[tuple[Start, str]]:
        """Yield those let in where a burst was not allowed, or (with ``reserved``) where what was left was kept for others."""
        for backend_id in {each.backend_id for each in starts}:
            limits = self._in_force.of_backend(backend_id)
            if limits is None or limits.limit is None:
                continue
            here = [each for each in starts if each.backend_id == backend_id]
            if not (reserved and self._kept.is_reserved(backend_id)) and not any(each.burst for each in here):
                continue
            for how in (ASKED, WAITED, MOVED):
                walk = _Walk(backend_id, here, self._used.get(("backend", backend_id, ""), 0), self._place, self._kept)
                for each in here:
                    if each.how == how:
                        if wrong := walk.wrong(each, limits.limit, limits.burst_below, reserved=reserved):
                            yield each, wrong
                        walk.go_on(each)


class _Walk:
    """The starts of one kind on one backend, one after the other, from the least that may have been in use there."""

    def __init__(self, backend_id: int, here: Iterable[Start], used: int, place: Callable[[UUID], int | None], kept: Kept) -> None:
        self._backend_id = backend_id
        self._place = place
        self._kept = kept
        stay = Counter(each.tenant_id for each in here if place(each.session_id) == backend_id)
        self._used = used - stay.total()
        self._unused = kept.unused(backend_id)
        self._of: dict[int, int] = {}
        for tenant_id, count in stay.items():
            self._count(tenant_id, -count)

    def wrong(self, start: Start, cap: int, burst_below: float | None, *, reserved: bool) -> str:
        """Return what is wrong with letting this one in next; nothing where all is well, or where the cap itself is passed."""
        kept = self._unused - self._unused_of(start.tenant_id)
        if reserved and kept and self._used < cap <= self._used + kept:
            return f"on backend {self._backend_id}, which had at least {self._used} in use and {kept} kept for others, its cap was {cap}"
        # Divided, as the ledger does.
        if start.burst and start.how != MOVED and burst_below is not None and (not cap or self._used / cap >= burst_below):
            return f"as a burst on backend {self._backend_id}, which had at least {self._used} of {cap} in use, its share is {burst_below}"
        return ""

    def go_on(self, start: Start) -> None:
        """Count it for those that come behind it."""
        if self._place(start.session_id) == self._backend_id:
            self._used += 1
            self._count(start.tenant_id, 1)

    def _count(self, tenant_id: int, change: int) -> None:
        before = self._unused_of(tenant_id)
        self._of[tenant_id] = self._used_by(tenant_id) + change
        self._unused += self._unused_of(tenant_id) - before

    def _used_by(self, tenant_id: int) -> int:
        return self._of.get(tenant_id, self._kept.used(tenant_id, self._backend_id))

    def _unused_of(self, tenant_id: int) -> int:
        return max(0, self._kept.reserved(tenant_id, self._backend_id) - self._used_by(tenant_id))
