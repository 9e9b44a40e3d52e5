from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection

from sessions_app import tasks
from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.models import EndRequest, LimitChange, OpeningBalance, Session, SessionEvent, Slot
from sessions_app.selectors import verification
from sessions_app.services import prune as pruning
from sessions_app.services.prune import Pruned
from tests.prune.past import Past, a_history, balances, release_claim
from tests.verify.outside import assert_clean, from_outside, verify_history
from tests.world import admit, admitted, new_ledger


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
