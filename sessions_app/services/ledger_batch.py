"""One batch of the ledger between its two round trips: what was loaded, what is decided, what is to be written.

Owns: the order. Releases come first, then who waits, then moves and attempts, so that a slot freed in this batch is given in it, and
to whom it belongs; what these free in their turn goes to who waits then. Pure: no connection is in sight, which keeps the network
out of the time that the locks are held.
Limits: of a long queue it decides on the first (see below), and keeps whoever comes new from overtaking the rest. Of the tenants that were
not looked at 256 are asked whether they have somebody who could be let in.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from msgspec import structs

from sessions_app.domain import admission, queueing, states
from sessions_app.domain.admission import Verdict
from sessions_app.domain.operations import (
    Activate,
    Admit,
    Admitted,
    BackendRef,
    Confirm,
    End,
    Joined,
    Left,
    Move,
    Operation,
    Promote,
    Promoted,
    Result,
    Resume,
    Step,
)
from sessions_app.domain.queueing import Waiter
from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Attempt, Scope
from sessions_app.selectors import world
from sessions_app.selectors.world import Waiting
from sessions_app.services.ledger_book import Book, Detail, Writes
from sessions_app.services.ledger_life import Life
from sessions_app.services.ledger_world import Held, Known, Loaded

FIRST_WAITERS: Final = 64  # of each line of a tenant's queue that a batch looks at, beside as many as sessions end in it
QUEUES: Final = 32  # tenants whose waiters a batch looks at
ALL_WAITERS, ALL_QUEUES = 2_000, 256  # where promotion is all that it does
MAX_FLOODS: Final = 10_000
ASKING: Final = (Admit, Move)  # a tuple, which ``isinstance`` takes in half the time
NOT_OF_A_LIFE: Final = frozenset({Admit, Move, Promote})
BRIEF: Final = frozenset({Admit, End, Promote})
TELLING: Final = frozenset({Activate, Joined, Left, Confirm, Resume})  # of a connection: it frees nothing and asks for nothing
_NO_TENANT: Final = Verdict(Reason.AUTHENTICATION_FAILED, ())


class Floods:
    """How many refusals of each tenant and reason were recorded in this second, by this process."""

    def __init__(self) -> None:
        self._second = 0
        self._counts: dict[tuple[int, str], int] = {}

    def overflows(self, tenant_id: int, reason: str, second: int) -> bool:
        """Count one refusal; return whether it is one too many for a record of its own."""
        if second != self._second or len(self._counts) > MAX_FLOODS:
            self._second, self._counts = second, {}
        count = self._counts[tenant_id, reason] = self._counts.get((tenant_id, reason), 0) + 1
        return count > settings.VOICE_REFUSALS_RECORDED_PER_S


class Batch:
    """Operations on their way through the ledger.

    Attributes:
        promoted: Who got a slot from the queue, once it is decided.
    """

    def __init__(self, operations: Sequence[Operation], floods: Floods | None = None) -> None:
        self.operations = operations
        self._kinds = {*map(type, operations)}
        asking = [each for each in operations if isinstance(each, ASKING)]
        self.tenant_ids = sorted({each.attempt.tenant_id for each in asking})
        self.session_ids = [_session_id(each) for each in operations if not isinstance(each, Promote)]
        self.resumed_ids = [each.session_id for each in operations if isinstance(each, Resume)]
        self.known_ids = [each.attempt.session_id for each in asking] + self.resumed_ids
        # Whether any session is named twice, so that what comes first must be found by what comes behind it.
        self._twice = len(set(self.session_ids)) < len(self.session_ids)
        self.user_tenants, self.users = world.asking((each.attempt.tenant_id, each.attempt.user) for each in asking)
        self.ends = [each for each in operations if isinstance(each, End)]
        self.only_promotes = self._kinds == {Promote}
        self.waiters, self.queues = (ALL_WAITERS, ALL_QUEUES) if self.only_promotes else (FIRST_WAITERS + len(self.ends), QUEUES)
        # Who begins or ends writes nothing of a slot that goes on, and need not know all of it.
        self.needs_leases = any(each.expired_only for each in self.ends) or not self._kinds <= BRIEF
        self.promotes = not self._kinds <= TELLING
        self.promoted: list[Promoted] = []
        self._floods = floods or Floods()
        self._book = Book()
        self._places = count()

    @property
    def asked(self) -> tuple[Sequence[Any], ...]:
        """Of whom and what is read: the first arguments of ``voice_open``."""
        return self.tenant_ids, self.session_ids, self.known_ids, self.resumed_ids, self.user_tenants, self.users

    @property
    def writes(self) -> Writes:
        """What is to be written, once it is decided."""
        return self._book.writes

    def decide(self, loaded: Loaded) -> list[Result]:
        """Decide every operation, fill ``writes``, and return the results in the order of the operations."""
        self._loaded, self._world = loaded, loaded.scene.world
        life = Life(loaded, self._book)
        results: dict[int, Result] = {}
        # What waits for an answer of this same batch (an end right behind its admission) keeps its place behind it.
        asking = {each.attempt.session_id for each in self.operations if isinstance(each, ASKING)} if self._twice else ()
        if not self._kinds <= NOT_OF_A_LIFE:
            for index, operation in enumerate(self.operations):
                if not isinstance(operation, Admit | Move | Promote) and operation.session_id not in asking:
                    results[index] = life.apply(operation)
        self._let_waiters_in(life)
        late = False
        for index, operation in enumerate(self.operations):
            if index in results:
                continue
            if isinstance(operation, Admit):
                results[index] = self._admit(operation)
            elif isinstance(operation, Move):
                moved = results[index] = self._move(operation)
                late |= moved.verdict.admitted
            elif isinstance(operation, Promote):
                results[index] = bool(self.promoted)
            else:
                results[index], late = life.apply(operation), True
        if late:  # something was freed, or came back, behind the promotions
            self._let_waiters_in(life)
        for key in sorted(self._world.spent_rates):
            self._book.spent(key, self._world.rates[key])
        self._book.close(loaded.scene.counters)
        return [results[index] for index in range(len(self.operations))]

    # --- the queue -----------------------------------------------------------------------------------------------------
    def _let_waiters_in(self, life: Life) -> None:
        if not self.promotes:
            return
        waiters = [_as_it_is(each) for each in self._loaded.waiting.values() if not each.over and self._loaded.in_view(each)]
        for waiter in queueing.suspended(self._world, waiters):
            life.step(End(waiter.attempt.session_id, Reason.TENANT_SUSPENDED))
        for promotion in queueing.promote(self._world, waiters):
            self._promote(self._loaded.waiting[promotion.waiter.attempt.session_id], promotion.verdict)

    def _promote(self, waiting: Waiting, verdict: Verdict) -> None:
        attempt, node_id, backend = waiting.attempt, waiting.node_id, self._backend(verdict)
        if backend is None:
            raise RuntimeError("a promotion has a backend")
        waited_ms = round((self._loaded.now - waiting.since).total_seconds() * 1000)
        self._book.promote(waiting, verdict, backend.id, waited_ms)
        # What comes behind it in this batch finds its slot.
        self._loaded.held[attempt.session_id] = Held(
            attempt.session_id, attempt.tenant_id, backend.id, attempt.user, State.STARTING, node_id, State.STARTING,
            generation=waiting.generation, floor=waiting.floor, told=True,
        )  # fmt: skip
        self._note_place(attempt, backend, verdict)
        answer = self._answer(attempt, verdict, State.STARTING, node_id, backend, verdict.pipeline)
        self.promoted.append(Promoted(attempt.session_id, node_id, answer))

    # --- admission -----------------------------------------------------------------------------------------------------
    def _admit(self, operation: Admit) -> Admitted:
        attempt, loaded = operation.attempt, self._loaded
        if loaded.known and (known := loaded.known.get(attempt.session_id)) is not None:  # to look a UUID up is not cheap
            return self._asked_before(attempt, known)
        if attempt.tenant_id not in self._world.tenants:
            return Admitted(attempt.session_id, _NO_TENANT, spent=True)
        verdict = admission.decide_one(self._world, attempt)
        state = State.STARTING if verdict.admitted else State.QUEUED if verdict.queued else State.REJECTED
        backend = self._backend(verdict)
        answer = self._answer(attempt, verdict, state, operation.node_id, backend, verdict.pipeline)
        reason = verdict.reason or ""
        if state is State.REJECTED and self._floods.overflows(attempt.tenant_id, reason, int(loaded.now.timestamp())):
            self._book.refused(attempt.tenant_id, reason)
            return answer
        place = loaded.seq * 1_000 + next(self._places) if state is State.QUEUED else None
        self._book.begin(operation, verdict, state, place, self._why(attempt, verdict) if verdict.reason is not None else None)
        if place is not None:
            waiter = Waiter(attempt, loaded.now.timestamp(), place)
            loaded.waiting[attempt.session_id] = Waiting(waiter, operation.node_id, loaded.now, None, False, 1, 1)
        if self._twice:
            self._keep(operation, verdict, state, backend)
        return answer

    def _why(self, attempt: Attempt, verdict: Verdict) -> Detail | None:
        """Return what the event of a wait or refusal tells beside the record's limit vector, which a promotion replaces by its own."""
        tenant = self._world.tenants[attempt.tenant_id]
        if verdict.queued:
            return {"limits": verdict.limits}
        if verdict.rate is not None:
            per_minute = tenant.user_rate if verdict.rate is Scope.USER else tenant.rate
            return {"rate": verdict.rate, "sessions_per_minute": per_minute}
        if verdict.reason is Reason.QUEUE_FULL:
            return {"queued": tenant.queued, "max_queue_length": tenant.max_queue_length}
        return None

    def _keep(self, operation: Admit, verdict: Verdict, state: State, backend: BackendRef | None) -> None:
        """Let what comes behind this attempt in the batch find what became of it: it is asked again, or ended."""
        attempt = operation.attempt
        self._loaded.known[attempt.session_id] = Known(state, operation.node_id, verdict.pipeline, attempt.tenant_id, attempt.user, backend)
        if backend is not None:
            self._loaded.held[attempt.session_id] = Held(
                attempt.session_id, attempt.tenant_id, backend.id, attempt.user, state, operation.node_id, state, told=True
            )

    def _asked_before(self, attempt: Attempt, known: Known) -> Admitted:
        """Answer for a credential that was used before: its session waits or lives, or it is spent."""
        loaded = self._loaded
        held, waiting = loaded.held.get(attempt.session_id), loaded.waiting.get(attempt.session_id)
        mine: Held | Waiting | None = held if held is not None else waiting
        over = known.state in states.FINAL_STATES or (mine is not None and mine.over)
        if over or (known.tenant_id, known.user) != (attempt.tenant_id, attempt.user):
            return Admitted(attempt.session_id, _NO_TENANT, state=known.state, spent=True)
        state = held.state if held is not None else known.state
        node = mine.node_id if mine is not None else known.node_id
        answer = self._answer(attempt, Verdict(None, (), queued=state is State.QUEUED), state, node, known.backend, known.pipeline)
        return structs.replace(answer, attached=True)

    def _move(self, operation: Move) -> Admitted:
        attempt, loaded = operation.attempt, self._loaded
        held, known = loaded.held.get(attempt.session_id), loaded.known.get(attempt.session_id)
        by_node = held is not None and held.state is State.STARTING and held.node_id == operation.node_id
        in_room = operation.node_id is None and attempt.transport == "webrtc"
        if held is None or known is None or held.over or not (by_node or in_room):
            return Admitted(attempt.session_id, _NO_TENANT, state=known.state if known else None, spent=True)
        verdict = admission.choose_other_backend(self._world, attempt)
        backend = self._backend(verdict)
        if backend is None:
            return Admitted(attempt.session_id, verdict, state=held.state, node_id=held.node_id)
        old, held.backend_id, held.pipeline = held.backend_id, backend.id, verdict.pipeline
        self._note_place(attempt, backend, verdict, held.state)
        self._book.moved(old, backend.id)
        if old in self._world.backends:
            self._world.backends[old].count(held.tenant_id, -1)
        self._book.record(held, held.state, "", detail={"moved_from": old})
        return self._answer(attempt, verdict, held.state, held.node_id, backend, verdict.pipeline)

    def _note_place(self, attempt: Attempt, backend: BackendRef, verdict: Verdict, state: State = State.STARTING) -> None:
        """Let who asks again in this batch hear where the session is now."""
        known = self._loaded.known.get(attempt.session_id)
        if known is not None:
            self._loaded.known[attempt.session_id] = known._replace(state=state, backend=backend, pipeline=verdict.pipeline)

    def _backend(self, verdict: Verdict) -> BackendRef | None:
        return self._loaded.scene.refs[verdict.backend_id] if verdict.backend_id is not None else None

    def _answer(  # noqa: PLR0917
        self, attempt: Attempt, verdict: Verdict, state: State, node: UUID | None, backend: BackendRef | None, pipeline: str
    ) -> Admitted:
        policy, tenant = self._loaded.scene.policies[attempt.tenant_id], self._world.tenants[attempt.tenant_id]
        return Admitted(
            attempt.session_id,
            verdict,
            state,
            node,
            backend,
            pipeline,
            policy,
            max_wait_s=tenant.max_queue_wait_s if verdict.queued else None,
        )


def _session_id(operation: Admit | Move | Resume | Step) -> UUID:
    return operation.attempt.session_id if isinstance(operation, Admit | Move) else operation.session_id


def _as_it_is(waiting: Waiting) -> Waiter:
    """Return the waiter with its client's presence as the batch has left it."""
    present = waiting.absent_until is None
    waiter = waiting.waiter
    return waiter if waiter.present == present else Waiter(waiter.attempt, waiter.since, waiter.place, present=present)
