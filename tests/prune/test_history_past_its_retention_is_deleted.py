import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection

from sessions_app import tasks
from sessions_app.domain.operations import Activate, Admit, End
from sessions_app.domain.states import Reason
from sessions_app.models import Backend, EndRequest, LimitChange, Node, OpeningBalance, Session, SessionEvent, Slot
from sessions_app.selectors import verification
from sessions_app.services import prune as pruning
from sessions_app.services.ledger import Ledger
from sessions_app.services.prune import Pruned
from tenants.models import Tenant
from tests.verify.outside import assert_clean, from_outside, verify_history
from tests.world import NODE, admit, admitted, make_backend, make_tenant, new_ledger


class Past:
    """A platform whose history can be made older."""

    def __init__(self, ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
        self.ledger, self.sql = ledger, sql
        self.backend, self.tenant = make_backend(), make_tenant(max_sessions_per_user=4)
        self.other = make_tenant("globex")

    def start(self, user: str = "ann", tenant: Tenant | None = None) -> uuid.UUID:
        session_id = admitted(self.ledger.apply([admit(tenant or self.tenant, user)])[0]).session_id
        assert self.ledger.apply([Activate(session_id, NODE)]) == [True]
        return session_id

    def end(self, session_id: uuid.UUID) -> None:
        assert self.ledger.apply([End(session_id, Reason.COMPLETED)]) == [True]

    def refuse(self) -> uuid.UUID:
        attempt: Admit = admit(self.tenant, pipeline="unknown")
        assert not admitted(self.ledger.apply([attempt])[0]).verdict.admitted
        return attempt.attempt.session_id

    def limit(self, sessions: int) -> None:
        self.sql.execute("UPDATE tenants_quota SET max_concurrent_sessions = %s WHERE tenant_id = %s", (sessions, self.tenant.pk))

    def pass_days(self, days: int) -> None:
        with from_outside(self.sql):
            for table, columns in (
                ("session", ("attempted_at", "started_at", "active_at", "ended_at")),
                ("sessionevent", ("at",)),
                ("limitchange", ("at",)),
                ("node", ("started_at", "heartbeat_at")),
            ):
                changes = ", ".join(f"{column} = {column} - interval '{days} days'" for column in columns)
                self.sql.execute(f"UPDATE sessions_app_{table} SET {changes}".encode())


@pytest.fixture
def past(ledger: Ledger, sql: psycopg.Connection[Any]) -> Past:
    return Past(ledger, sql)


def balances() -> dict[tuple[str, int, str], int]:
    return {(each.scope, each.ref, each.user): each.active for each in OpeningBalance.objects.all()}


def release_claim(sql: psycopg.Connection[Any]) -> None:
    sql.execute("UPDATE sessions_app_claim SET until = clock_timestamp() - interval '1 s' WHERE name = 'prune'")


def a_history(past: Past) -> tuple[set[uuid.UUID], set[uuid.UUID]]:
    """Make a history on both sides of the retention; return the sessions that are to go, and those that are to stay."""
    gone = [past.start() for _ in range(3)]
    living, ended_late = past.start("bob"), past.start("cy")
    elsewhere = past.start("ann", past.other)
    past.limit(7)
    refused = past.refuse()
    past.limit(8)
    for each in gone:
        past.end(each)
    EndRequest.objects.create(session_id=gone[0], reason="terminated", asked_at="2020-01-01T00:00:00Z")
    past.pass_days(91)
    past.end(ended_late)
    past.limit(9)
    new, new_refused = past.start(), past.refuse()
    past.end(past.start())
    latest = Session.objects.latest("id").pk
    return {*gone, refused}, {living, ended_late, elsewhere, new, new_refused, latest}


def test_what_ended_before_the_retention_goes_and_the_rest_adds_up(past: Past) -> None:
    gone, kept = a_history(past)
    assert pruning.prune(holder="a") == Pruned(sessions=4, limit_changes=3)
    assert set(Session.objects.values_list("pk", flat=True)) == kept
    assert set(SessionEvent.objects.values_list("session_id", flat=True)) == kept
    assert not EndRequest.objects.exists()
    here, there, backend = past.tenant.pk, past.other.pk, past.backend.pk
    assert balances() == {
        ("platform", 0, ""): 3,
        ("backend", backend, ""): 3,
        ("tenant", here, ""): 2,
        ("tenant", there, ""): 1,
        ("user", here, "bob"): 1,
        ("user", here, "cy"): 1,
        ("user", there, "ann"): 1,
    }
    limits = LimitChange.objects.filter(scope="tenant", ref=here, new__has_key="max_concurrent_sessions").order_by("seq")
    assert [each.new and each.new["max_concurrent_sessions"] for each in limits] == [8, 9]
    assert gone.isdisjoint(kept)
    assert_clean()


def test_a_later_prune_goes_on_from_the_balance(past: Past, sql: psycopg.Connection[Any]) -> None:
    a_history(past)
    pruning.prune(holder="a")
    past.pass_days(91)
    release_claim(sql)
    pruning.prune(holder="a")
    assert set(Session.objects.values_list("pk", flat=True)) == set(Slot.objects.values_list("pk", flat=True))
    assert balances()["platform", 0, ""] == Slot.objects.count() == 3
    assert_clean()
    past.start()
    assert_clean()


def test_in_small_steps_it_comes_to_the_same(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    _, kept = a_history(past)
    monkeypatch.setattr(pruning, "WINDOW", 2)
    monkeypatch.setattr(pruning, "BATCH", 1)
    assert pruning.prune(holder="a") == Pruned(sessions=4, limit_changes=3)
    assert set(Session.objects.values_list("pk", flat=True)) == kept
    assert balances()["platform", 0, ""] == 3
    assert_clean()


def test_after_a_bounded_run_the_history_is_clean_and_the_next_one_goes_on(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    _, kept = a_history(past)
    monkeypatch.setattr(pruning, "WINDOW", 2)
    monkeypatch.setattr(pruning, "BATCH", 1)
    monkeypatch.setattr(pruning, "STEPS", 1)
    runs = 0
    while pruning.prune(holder="a").more:
        runs += 1
        assert_clean()
        assert runs < 100
    assert runs > 10
    assert set(Session.objects.values_list("pk", flat=True)) == kept


def test_a_run_that_dies_between_balance_and_deletion_leaves_a_clean_history(past: Past, sql: psycopg.Connection[Any]) -> None:
    gone, kept = a_history(past)
    sql.execute("CREATE TRIGGER test_dies BEFORE DELETE ON sessions_app_session FOR EACH STATEMENT EXECUTE FUNCTION voice_refuse()")
    try:
        with pytest.raises(DatabaseError):
            pruning.prune(holder="a")
    finally:
        sql.execute("DROP TRIGGER test_dies ON sessions_app_session")
    assert balances()["platform", 0, ""] == 3
    assert set(Session.objects.values_list("pk", flat=True)) == gone | kept
    assert_clean()
    assert pruning.prune(holder="b") == Pruned()  # the dead one's claim
    release_claim(sql)
    assert pruning.prune(holder="b") == Pruned(sessions=4, limit_changes=3)
    assert_clean()


def test_a_retention_of_zero_days_deletes_no_history(past: Past, settings: Any) -> None:
    a_history(past)
    past.pass_days(10_000)
    settings.VOICE_RETENTION_DAYS = 0
    before = Session.objects.count(), SessionEvent.objects.count(), LimitChange.objects.count()
    assert pruning.prune(holder="a") == Pruned()
    assert (Session.objects.count(), SessionEvent.objects.count(), LimitChange.objects.count()) == before
    assert not OpeningBalance.objects.exists()


def test_a_young_history_stays_whole(past: Past) -> None:
    past.end(past.start())
    past.pass_days(89)
    assert pruning.prune(holder="a") == Pruned()
    assert not OpeningBalance.objects.exists()


def test_a_session_that_lives_stays_however_old_it_is(past: Past) -> None:
    living = past.start()
    past.pass_days(500)
    pruning.prune(holder="a")
    assert [each.pk for each in Slot.objects.all()] == [living]
    assert SessionEvent.objects.filter(session_id=living).count() == 2
    past.end(living)
    assert_clean()


def test_a_session_whose_rows_disagree_is_kept_to_be_named(past: Past, sql: psycopg.Connection[Any]) -> None:
    gone, odd = past.start(), past.start()
    past.end(gone)
    past.end(odd)
    with from_outside(sql):
        sql.execute("UPDATE sessions_app_session SET state = 'active' WHERE id = %s", (odd,))
    past.pass_days(91)
    assert pruning.prune(holder="a").sessions == 1
    assert [each.pk for each in Session.objects.all()] == [odd]
    assert f"session {odd} is active, its last event says ended" in verify_history()[1]


def test_doubled_beats_count_once(past: Past) -> None:
    a_history(past)
    start = Barrier(3)

    def run(holder: str) -> Pruned:
        start.wait()
        try:
            return pruning.prune(holder=holder)
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as threads:
        runs = list(threads.map(run, "aaa"))
    assert sorted(each.sessions for each in runs) == [0, 0, 4]
    assert pruning.prune(holder="a") == Pruned()
    assert_clean()


@pytest.fixture
def traffic(past: Past) -> Iterator[Callable[[], None]]:
    """Sessions that come and go, after a history whose older half is due; called, it stops them."""
    a_history(past)
    over = Event()

    def live() -> int:
        rounds = 0
        with new_ledger() as own:
            while not over.is_set():
                answer = admitted(own.apply([admit(past.other, "eve")])[0])
                own.apply([End(answer.session_id, Reason.COMPLETED)])
                rounds += 1
        return rounds

    with ThreadPoolExecutor(1) as threads:
        living = threads.submit(live)

        def stop() -> None:
            over.set()
            assert living.result(10) > 0

        yield stop
        over.set()


def test_it_stays_clean_while_sessions_come_and_go_and_others_look(
    past: Past, traffic: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "WINDOW", 2)
    monkeypatch.setattr(pruning, "BATCH", 1)
    done = Event()

    def look() -> list[list[str]]:
        found: list[list[str]] = []
        try:
            while not done.is_set() or not found:
                found.append(verification.history().findings)
        finally:
            connection.close()
        return found

    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(look)
        try:
            assert pruning.prune(holder="a").sessions == 4
        finally:
            done.set()
        found = looking.result(20)
    traffic()
    assert found == [[]] * len(found)
    assert_clean()


BROKEN = {
    "a balance changed": (
        "UPDATE sessions_app_openingbalance SET active = 5 WHERE scope = 'tenant' AND ref = {tenant}",
        "the opening balance of tenant {tenant} says 5 in use at sequence number {seq}, the history says 2",
    ),
    "a user's balance taken away": (
        "DELETE FROM sessions_app_openingbalance WHERE scope = 'user' AND \"user\" = 'bob'",
        "the opening balance of user 'bob' of tenant {tenant} says 0 in use at sequence number {seq}, the history says 1",
    ),
    "the platform's balance taken away": (
        "DELETE FROM sessions_app_openingbalance WHERE scope = 'platform'",
        "the opening balance of the platform is missing",
    ),
    "a balance moved": (
        "UPDATE sessions_app_openingbalance SET seq = seq + 1 WHERE scope = 'backend'",
        "the opening balance of backend {backend} is of sequence number",
    ),
    "all balances taken away": ("DELETE FROM sessions_app_openingbalance", "the records of the quota of tenant {tenant} before record"),
    "a session that was live at the horizon taken away whole": (
        "DELETE FROM sessions_app_sessionevent WHERE session_id = '{late}'; DELETE FROM sessions_app_session WHERE id = '{late}'",
        "the opening balance of user 'cy' of tenant {tenant} says 1 in use at sequence number {seq}, the history says 0",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_was_done_to_the_balance_from_outside_is_named(past: Past, sql: psycopg.Connection[Any], what: str) -> None:
    a_history(past)
    pruning.prune(holder="a")
    assert_clean()
    known = {
        "tenant": past.tenant.pk,
        "backend": past.backend.pk,
        "seq": OpeningBalance.objects.get(scope="platform").seq,
        "late": Session.objects.get(user="cy").pk,
    }
    statement, wanted = BROKEN[what]
    with from_outside(sql):
        for each in statement.format(**known).split(";"):
            assert sql.execute(each.encode()).rowcount > 0
    code, said = verify_history()
    assert code == 1
    assert any(wanted.format(**known) in line for line in said), said


def test_a_backend_that_went_before_the_horizon_leaves_no_record(past: Past) -> None:
    backend = make_backend("short-lived")
    ref = backend.pk
    backend.delete()
    past.end(past.start())
    past.pass_days(91)
    pruning.prune(holder="a")
    assert not LimitChange.objects.filter(scope="backend", ref=ref).exists()
    assert Backend.objects.count() == 1
    assert_clean()


def test_nodes_go_when_no_history_tells_of_them(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    def node(name: str, state: str, days: float) -> None:
        past.sql.execute(
            "INSERT INTO sessions_app_node (id, name, pid, state, started_at, heartbeat_at)"
            " SELECT %s, %s, 1, %s, t, t FROM (SELECT clock_timestamp() - make_interval(secs => %s * 86400)) AS c(t)",
            (NODE if name == "carries" else uuid.uuid4(), name, state, days),
        )

    past.start()
    for name, state, days in (
        ("up", "up", 200.0), ("carries", "lost", 200.0), ("old", "stopped", 92.0), ("told of", "lost", 80.0), ("today", "stopped", 0.5),
    ):  # fmt: skip
        node(name, state, days)
    assert pruning.prune(holder="a").nodes == 1
    assert set(Node.objects.values_list("name", flat=True)) == {"up", "carries", "told of", "today"}
    # However few days they are gone, their number is bounded.
    monkeypatch.setattr(pruning, "NODES_KEPT", 1)
    release_claim(past.sql)
    assert pruning.prune(holder="a").nodes == 1
    assert set(Node.objects.values_list("name", flat=True)) == {"up", "carries", "today"}


@pytest.fixture
def eager() -> Iterator[None]:
    """Tasks run where they are sent."""
    conf = tasks.prune.app.conf
    before, conf.task_always_eager = conf.task_always_eager, True
    yield
    conf.task_always_eager = before


def test_what_a_bounded_run_leaves_the_task_has_taken_by_more_runs(past: Past, monkeypatch: pytest.MonkeyPatch, eager: None) -> None:
    _, kept = a_history(past)
    monkeypatch.setattr(pruning, "BATCH", 1)
    monkeypatch.setattr(pruning, "STEPS", 2)
    tasks.prune()
    assert set(Session.objects.values_list("pk", flat=True)) == kept
    assert_clean()
