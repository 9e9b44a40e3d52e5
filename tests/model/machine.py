"""The state machine: whatever may happen on a platform, in any order, to a real database and to the plain model side by side."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
import uuid_utils.compat
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from sessions_app.domain.operations import (
    Activate,
    Admit,
    Admitted,
    Adopt,
    Confirm,
    End,
    Joined,
    Left,
    Move,
    Operation,
    Promote,
    Result,
    Resume,
    Suspend,
)
from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Attempt
from sessions_app.models import BackendAccess
from sessions_app.services import ending, ledger, ledger_batch, nodes, sweep
from sessions_app.services.connections import open_connection
from tenants.models import Quota
from tests.conftest import empty_database
from tests.model import watched
from tests.model.figures import BACKEND, LOOKS, OVERRIDABLE, QUOTA, REASONS, RESERVED, ROOMY, Wish, few, modest, number, wishes
from tests.model.plain import HOLDING, Backend, Override, Plain, Session, Tenant
from tests.model.steps import Batch
from tests.model.watched import Turns
from tests.world import ledger_mark, make_backend, make_tenant

USERS = ("ann", "bob")
FAR = "clock_timestamp() + interval '1 day'"  # a probe that stays fresh


class Machine(RuleBasedStateMachine):
    """Each rule does one thing to both; ``_told`` compares after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.sql = open_connection(name="model")
        self.ledger = watched.Watched(open_connection(name="model ledger"), self._told)
        self.plain = Plain(now=self._clock())
        self.nodes: list[uuid.UUID] = []
        self.dead: set[uuid.UUID] = set()
        self.asked: dict[uuid.UUID, datetime] = {}
        self.sweeping = False
        self.let_in: set[uuid.UUID] = set()  # by this sweep, which had not come to their nodes yet
        self.short = False  # whether looks at the queue end before it does
        self.patch = pytest.MonkeyPatch()

    def teardown(self) -> None:
        self.patch.undo()
        try:
            watched.check_events(self.sql)
        finally:
            self.ledger._wire._connection.close()
            self.sql.close()
            empty_database()

    @initialize(
        quotas=st.lists(st.fixed_dictionaries(QUOTA), min_size=3, max_size=3),
        caps=st.lists(few, min_size=3, max_size=3),
        access=st.lists(st.sampled_from([(), (), (0,), (0, 1), (1, 2)]), min_size=3, max_size=3),
        platform=st.sampled_from([None, None, None, 4, 6]),
        look=st.sampled_from(LOOKS),
        large=st.booleans(),
    )
    def build(
        self,
        quotas: list[dict[str, Any]],
        caps: list[int | None],
        access: list[tuple[int, ...]],
        platform: int | None,
        look: dict[str, int],
        large: bool,
    ) -> None:
        self.short = bool(look)
        for name, value in look.items():
            self.patch.setattr(ledger_batch, name, value)
        if large:
            self.patch.setattr(ledger, "MANY", 1)  # every batch is taken for a large one
        kinds = ({"s2s"}, {"websocket"}), ({"s2s", "stt_tts"}, {"websocket"}), ({"stt_tts", "s2s"}, {"websocket", "webrtc"})
        for index, (cap, (pipelines, transports)) in enumerate(zip(caps, kinds, strict=True)):
            row = make_backend(
                f"b{index}", cap=cap, pipelines={each: {} for each in pipelines}, transports=sorted(transports), burst_below=1.0
            )
            self.plain.backends[row.pk] = Backend(row.pk, row.name, cap, pipelines, transports)
        self.sql.execute(f"UPDATE sessions_app_backendhealth SET last_probe_at = {FAR}")
        ids = sorted(self.plain.backends)
        for index, quota in enumerate(quotas):
            tenant = make_tenant(f"t{index}", **quota)
            own = {ids[each] for each in access[index]}
            BackendAccess.objects.bulk_create(BackendAccess(tenant_id=tenant.pk, backend_id=each) for each in own)
            whole: dict[str, Any] = {**Quota.objects.filter(tenant=tenant).values().get()}
            self.plain.tenants[tenant.pk] = Tenant(tenant.pk, whole, access=own)
        self.cap_platform(platform)
        for _ in range(2):
            self._new_node()

    # --- what clients and nodes ask of the ledger ----------------------------------------------------------------------------
    @rule(wanted=st.lists(wishes, min_size=1, max_size=8))
    def batch(self, wanted: list[Wish]) -> None:
        operations = [each for wish in wanted for each in self._operations(*wish)]
        self.ledger.apply(operations)

    @rule()
    def promote(self) -> None:
        """Ask for it until nobody more gets in: then nobody is left who could."""
        while self.ledger.apply([Promote()]) == [True]:
            pass
        soon = timedelta(seconds=5)
        changing = [each for each in self.plain.overrides if any(abs(self.plain.now - when) < soon for when in (each.starts, each.ends))]
        assert changing or self.plain.next_promotion() is None

    @rule(
        tenants=st.sets(st.integers(0, 2), min_size=1),
        wanted=st.lists(st.tuples(number, modest), min_size=2, max_size=9),
        quota=st.fixed_dictionaries(ROOMY),
        cap=st.sampled_from([None, 3, 6]),
        new=st.lists(st.tuples(number, modest), min_size=1, max_size=3),
    )
    def rush(
        self, tenants: set[int], wanted: list[tuple[int, int]], quota: dict[str, Any], cap: int | None, new: list[tuple[int, int]]
    ) -> None:
        """Let a queue grow while nobody gets in, then raise the limits, and let others ask before those who wait are asked again."""
        calm = dict.fromkeys(("max_queue_length", "sessions_per_minute", "user_sessions_per_minute"))
        for each in range(3):
            self.set_status(each, suspended=False)
            for edit in (("healthy", True), ("enabled", True), ("draining", False), ("cap", cap)):
                self.edit_backend(each, edit)
            self._set_quota(each, calm | {"max_concurrent_sessions": 0} if each in tenants else calm)
        self.cap_platform(cap and 2 * cap)
        some, others = sorted(tenants), sorted({0, 1, 2} - tenants) or [0, 1, 2]
        # The first of a wish's numbers has the tenant in it.
        self.batch([("admit", 3 * pick + some[pick % len(some)], other, False) for pick, other in wanted])
        for each in range(3):
            self._set_quota(each, quota)
        self.batch([("admit", 3 * pick + others[pick % len(others)], other, False) for pick, other in new])

    def _operations(self, kind: str, pick: int, other: int, odd: bool) -> list[Operation]:
        if kind == "promote":
            return [Promote()]
        if kind in {"admit", "twice", "briefly"}:
            attempt = self._attempt(pick, other)
            admit = Admit(attempt, self.nodes[pick % 2])
            last: list[Operation] = [admit] if kind == "twice" else [End(attempt.session_id, Reason.COMPLETED)] if kind == "briefly" else []
            return [admit, *last]
        live = [each for each in self.plain.sessions.values() if each.state in HOLDING | {State.QUEUED}]
        some = list(self.plain.sessions.values()) if odd else live
        if not some:
            return []
        session = some[pick % len(some)]
        if kind == "again":
            return [Admit(session.attempt, self.nodes[other % 2])]
        return [self._step(kind, session, other, odd)]

    def _attempt(self, pick: int, other: int) -> Attempt:
        tenants, backends = sorted(self.plain.tenants), sorted(self.plain.backends)
        return Attempt(
            uuid_utils.compat.uuid7(),
            tenants[pick % 3],
            USERS[other % 2],
            pipeline=("", "", "s2s", "stt_tts")[pick % 4],
            transport="webrtc" if other % 10 == 9 else "websocket",
            backend=("", "", "", "", "b0", "b1", "gone")[other % 7],
            exclude=frozenset(backends[:1]) if pick % 20 == 19 else frozenset(),
        )

    def _step(self, kind: str, session: Session, other: int, odd: bool) -> Operation:  # noqa: PLR0911
        session_id, attempt = session.attempt.session_id, session.attempt
        node = self.nodes[other % 2] if odd or session.node is None else session.node
        match kind:
            case "activate":
                return Activate(session_id, node)
            case "joined":
                return Joined(session_id)
            case "left":
                return Left(session_id)
            case "suspend":
                return Suspend(session_id, node)
            case "confirm":
                return Confirm(session_id, node, session.generation - (other % 4 == 3))
            case "adopt":
                return Adopt(session_id, self.nodes[other % 2], was=node, generation=session.generation)
            case "resume":
                shown = (None, session.generation, session.floor, session.floor - 1, session.generation + 1)[other % 5]
                user = "eve" if other % 13 == 12 else session.user
                return Resume(session_id, self.nodes[other % 2], session.tenant, user, shown)
            case "move":
                here = frozenset({session.backend} if session.backend is not None and other % 4 else ())
                again = Attempt(session_id, session.tenant, session.user, attempt.pipeline, attempt.transport, attempt.backend, here)
                return Move(again, None if other % 3 == 2 else node)
        limits = {"expired_only": odd, "node_id": node if other % 5 == 4 else None}
        return End(session_id, REASONS[other % len(REASONS)], "why", **limits)  # type: ignore[arg-type]

    # --- what people edit ------------------------------------------------------------------------------------------------------
    @rule(pick=number, edit=st.one_of(*(st.tuples(st.just(name), values) for name, values in QUOTA.items())))
    def edit_quota(self, pick: int, edit: tuple[str, Any]) -> None:
        self._set_quota(pick, dict([edit]))

    @rule(pick=number, reserved=RESERVED["reserved"], where=RESERVED["reserved_backend"])
    def reserve(self, pick: int, reserved: int, where: str) -> None:
        tenant = self._tenant(pick)
        old = dict(tenant.quota)
        tenant.quota |= {"reserved": reserved, "reserved_backend": where}
        if not self._edit(
            "UPDATE tenants_quota SET reserved = %s, reserved_backend = %s WHERE tenant_id = %s", (reserved, where, tenant.id)
        ):
            tenant.quota.update(old)

    @rule(pick=number, other=number)
    def allow_or_not(self, pick: int, other: int) -> None:
        """A tenant may use one backend more, or one less; without any it may use all."""
        tenant, backend = self._tenant(pick), sorted(self.plain.backends)[other % 3]
        if backend in tenant.access:
            statement = "DELETE FROM sessions_app_backendaccess WHERE tenant_id = %s AND backend_id = %s"
        else:
            statement = "INSERT INTO sessions_app_backendaccess (tenant_id, backend_id) VALUES (%s, %s)"
        tenant.access ^= {backend}
        if not self._edit(statement, (tenant.id, backend)):
            tenant.access ^= {backend}

    @rule(name=st.sampled_from(["b2", "gone"]))
    def rename_backend(self, name: str) -> None:
        backend = self.plain.backends[max(self.plain.backends)]
        old, backend.name = backend.name, name
        if not self._edit("UPDATE sessions_app_backend SET name = %s WHERE id = %s", (name, backend.id)):
            backend.name = old

    @rule(pick=number, edit=st.one_of(*(st.tuples(st.just(name), values) for name, values in BACKEND.items())))
    def edit_backend(self, pick: int, edit: tuple[str, Any]) -> None:
        backend, (name, value) = self.plain.backends[sorted(self.plain.backends)[pick % 3]], edit
        if name == "healthy":
            status, stale = ("healthy" if value or pick % 2 else "unhealthy"), not value and pick % 2
            probed = "clock_timestamp() - interval '1 hour'" if stale else FAR
            self.sql.execute(
                f"UPDATE sessions_app_backendhealth SET status = %s, last_probe_at = {probed} WHERE backend_id = %s", (status, backend.id)
            )
            backend.healthy = value
            return
        old = getattr(backend, name, None)
        setattr(backend, name, value)
        if not self._edit(f"UPDATE sessions_app_backend SET {name} = %s WHERE id = %s", (value, backend.id)):
            setattr(backend, name, old)

    @rule(limit=st.sampled_from([None, None, 0, 1, 2, 3, 5]))
    def cap_platform(self, limit: int | None) -> None:
        self.sql.execute("UPDATE sessions_app_platform SET max_concurrent_sessions = %s", (limit,))
        self.plain.platform = limit

    @rule(pick=number, suspended=st.sampled_from([False, False, True]))
    def set_status(self, pick: int, suspended: bool) -> None:
        tenant = self._tenant(pick)
        self.sql.execute("UPDATE tenants_tenant SET status = %s WHERE id = %s", ("suspended" if suspended else "active", tenant.id))
        tenant.suspended = suspended

    @rule(pick=number, name=st.sampled_from(OVERRIDABLE), change=st.integers(-2, 3), begins=st.sampled_from([-100, -1, 20]))
    def override(self, pick: int, name: str, change: int, begins: int) -> None:
        starts = self._clock() + timedelta(seconds=begins)
        one = Override(self._tenant(pick).id, name, change, starts, starts + timedelta(seconds=(90, 45)[pick % 2]))
        self.sql.execute(
            "INSERT INTO tenants_override (tenant_id, field, change, starts_at, ends_at, note, created_by, created_at)"
            " VALUES (%s, %s, %s, %s, %s, '', '', now())",
            (one.tenant, name, change, one.starts, one.ends),
        )
        self.plain.overrides.append(one)

    # --- time and death --------------------------------------------------------------------------------------------------------
    @rule(seconds=st.sampled_from([1, 4, 13, 31, 45, 100]))
    def wait(self, seconds: int) -> None:
        """Let time pass: every time that matters moves into the past."""
        ago = timedelta(seconds=seconds)
        with ledger_mark(self.sql):
            for table, columns in (
                ("sessions_app_waiter", ("since", "absent_until")),
                ("sessions_app_slot", ("since", "lease_until", "dropped_at")),
                ("sessions_app_ratebucket", ("at",)),
                ("sessions_app_endrequest", ("asked_at",)),
                ("tenants_override", ("starts_at", "ends_at")),
            ):
                self.sql.execute(f"UPDATE {table} SET {', '.join(f'{each} = {each} - %(ago)s' for each in columns)}", {"ago": ago})
            self.sql.execute("UPDATE sessions_app_node SET heartbeat_at = heartbeat_at - %s WHERE id = ANY(%s)", (ago, list(self.dead)))
        for session in self.plain.sessions.values():
            session.since -= ago
            session.lease = session.lease and session.lease - ago
        for one in self.plain.overrides:
            one.starts, one.ends = one.starts - ago, one.ends - ago
        self.plain.buckets = {key: (tokens, at - ago) for key, (tokens, at) in self.plain.buckets.items()}
        self.asked = {key: at - ago for key, at in self.asked.items()}

    @rule(pick=number, silent_s=st.sampled_from([9, 11, 13]))
    def die(self, pick: int, silent_s: int) -> None:
        node = self.nodes.pop(pick % 2)
        self.sql.execute(
            "UPDATE sessions_app_node SET heartbeat_at = clock_timestamp() - make_interval(secs => %s) WHERE id = %s", (silent_s, node)
        )
        self.dead.add(node)
        self._new_node()

    @rule(pick=number)
    def ask_for_an_end(self, pick: int) -> None:
        live = [key for key, each in self.plain.sessions.items() if each.state in HOLDING | {State.QUEUED}]
        if live:
            session_id = live[pick % len(live)]
            ending.request_end(session_id=session_id, actor="olga")
            self.asked.setdefault(session_id, self._clock())

    @rule()
    def sweep(self) -> None:
        self.sql.execute(
            "INSERT INTO sessions_app_claim (name, holder, until, done_at, steady_since) VALUES"
            " ('sweep', '', clock_timestamp(), clock_timestamp(), clock_timestamp() - interval '1 minute')"
            " ON CONFLICT (name) DO UPDATE SET until = excluded.until, done_at = excluded.done_at, steady_since = excluded.steady_since"
        )
        began = self._clock()
        self.sweeping, self.let_in = True, set()
        with watched.sweeps_tell(self._told):
            sweep.sweep(holder="model")
        self.sweeping = False
        for key, each in self.plain.sessions.items():
            if each.state not in HOLDING | {State.QUEUED}:
                continue
            gone = each.node in self.dead
            assert not gone or each.lease is not None or key in self.let_in, "whoever is on a dead node is in its grace"
            if each.lease is not None:
                slack = timedelta(seconds=0 if gone or each.state is State.QUEUED else 6)
                assert each.lease > began - slack, "nobody outlives the grace"
            longest = self.plain.tenants[each.tenant].quota["max_queue_wait_s"]
            if each.state is State.QUEUED and longest is not None:
                assert began - each.since < timedelta(seconds=longest + 2), "nobody waits for longer than the quota lets them"
            late = key in self.asked and (gone or self.asked[key] < began - timedelta(seconds=8))
            assert not late, "whose end was asked for ends"

    # --- comparing -------------------------------------------------------------------------------------------------------------
    def _told(self, now: datetime, operations: Sequence[Operation], results: Sequence[Result], turns: Turns) -> None:
        plain, promoted = self.plain, [each for turn in turns for each in turn]
        plain.now = now
        had = {key: each.backend for key, each in plain.sessions.items() if each.state in HOLDING}
        if self.sweeping:
            self._check_sweep(operations)
            self.let_in |= {each.session_id for each in promoted}
        chosen: dict[int | uuid.UUID, int] = {
            index: each.backend.id for index, each in enumerate(results) if isinstance(each, Admitted) and each.backend is not None
        }
        chosen |= {each.session_id: each.admitted.backend.id for each in promoted if each.admitted.backend is not None}
        batch = Batch(plain, chosen, watched.seen(plain, self.sql, results, turns) if self.short else None)
        expected = batch.apply(operations)
        assert [watched.in_short(*each) for each in zip(operations, results, strict=True)] == expected
        assert [each.session_id for each in promoted] == batch.promoted
        for key, each in plain.sessions.items():
            if each.state in HOLDING and had.get(key) != each.backend:
                plain.check_caps(each, moved=key in had)
        watched.compare(plain, self.sql)

    def _check_sweep(self, operations: Sequence[Operation]) -> None:
        """The sweep touches only what has lost its lease, waited too long, or was asked to end."""
        for each in operations:
            assert isinstance(each, End | Suspend)
            session = self.plain.sessions[each.session_id]
            if isinstance(each, Suspend) or each.node_id is not None:
                assert session.node in self.dead
            elif each.reason is Reason.QUEUE_TIMEOUT:
                assert session.state is not State.QUEUED or self.plain.now - session.since > timedelta(seconds=30)
            elif not each.expired_only:
                assert each.session_id in self.asked

    # --- helpers ---------------------------------------------------------------------------------------------------------------
    def _tenant(self, pick: int) -> Tenant:
        return self.plain.tenants[sorted(self.plain.tenants)[pick % 3]]

    def _set_quota(self, pick: int, figures: dict[str, Any]) -> None:
        tenant = self._tenant(pick)
        fields = ", ".join(f"{name} = %s" for name in figures)
        self.sql.execute(f"UPDATE tenants_quota SET {fields} WHERE tenant_id = %s", (*figures.values(), tenant.id))
        tenant.quota |= figures

    def _edit(self, statement: str, parameters: tuple[Any, ...]) -> bool:
        """Do what the model has done already; it is refused exactly where more would then be reserved than there is, wherever that is."""
        fits = all(each.cap is None or self.plain.reserved(each.id) <= each.cap for each in self.plain.backends.values())
        try:
            self.sql.execute(statement, parameters)
        except psycopg.Error as error:
            assert error.sqlstate == "VP003", error
            assert not fits
            return False
        assert fits
        return True

    def _clock(self) -> datetime:
        clock: datetime = self.sql.execute("SELECT clock_timestamp()").fetchall()[0][0]
        return clock

    def _new_node(self) -> None:
        node = uuid.uuid4()
        nodes.register(node_id=node, name="model", pid=1)
        self.nodes.append(node)
