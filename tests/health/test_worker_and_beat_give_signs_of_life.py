"""Worker and beat as real processes: each is seen by itself, and falls silent with its own death alone."""

import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.utils import timezone

from sessions_app.models import Claim
from sessions_app.runtime import pulse
from sessions_app.runtime.pulse import Pulse
from sessions_app.selectors import platform_health
from sessions_app.services import seen
from tests.e2e.server import wait_until
from tests.platform.instance import PROJECT
from tests.world import database_url
from voiceplatform import processes

COMMANDS = {
    platform_health.WORKER: ["worker", "--concurrency", "1", "--without-gossip", "--without-mingle"],
    platform_health.BEAT: ["beat", "--scheduler", "celery.beat:Scheduler", "--pidfile="],
}


@pytest.fixture
def launch(committed_db: None, tmp_path: Path) -> Iterator[Callable[[str], Callable[[], None]]]:
    """Start a process by the name of its sign; returns what kills it."""
    running = []

    def start(name: str) -> Callable[[], None]:
        with (tmp_path / f"{name}.log").open("wb") as output:
            command = [sys.executable, "-m", "celery", "-q", "-A", "voiceplatform", *COMMANDS[name]]
            running.append(
                processes.spawn(command, environment={**os.environ, "DATABASE_URL": database_url()}, folder=PROJECT, output=output)
            )
        process = running[-1]
        return lambda: processes.end(process)

    yield start
    for process in running:
        processes.end(process)


def seen_at(name: str) -> float:
    at = Claim.objects.filter(name=name).values_list("done_at", flat=True).first()
    return at.timestamp() if at else 0.0


@pytest.mark.slow
def test_each_is_seen_without_the_other(launch: Callable[[str], Callable[[], None]]) -> None:
    end_beat = launch(platform_health.BEAT)
    wait_until(lambda: seen_at(platform_health.BEAT), 30, "a sign of beat")
    assert not seen_at(platform_health.WORKER)
    end_beat()
    last = seen_at(platform_health.BEAT)
    launch(platform_health.WORKER)
    wait_until(lambda: seen_at(platform_health.WORKER), 30, "a sign of the worker")
    assert seen_at(platform_health.BEAT) == last


def test_many_signs_are_one_row_and_one_write_a_period(committed_db: None) -> None:
    felt = Pulse("test.pulse")
    try:
        felt.felt(sender=object())
        first = wait_until(lambda: seen_at("test.pulse"), 10, "the first sign")
        for _ in range(100):
            felt.felt()
        assert seen_at("test.pulse") == first
    finally:
        felt.stop()


def test_without_a_sign_nothing_is_written(committed_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "PERIOD_S", 0.01)
    felt = Pulse("test.pulse")
    try:
        felt.felt()
        first = wait_until(lambda: seen_at("test.pulse"), 10, "the first sign")
        assert seen_at("test.pulse") == first
        felt.felt()
        wait_until(lambda: seen_at("test.pulse") > first, 10, "the second sign")
    finally:
        felt.stop()


def test_a_database_that_is_away_is_told_once_and_outlived(
    committed_db: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pulse, "PERIOD_S", 0.01)
    real, failed = seen.seen, []

    def away(**_: str) -> None:
        failed.append(1)
        raise psycopg.OperationalError("gone")

    monkeypatch.setattr(seen, "seen", away)
    felt = Pulse("test.pulse")
    try:
        for number in range(3):
            felt.felt()
            wait_until(lambda number=number: len(failed) > number, 10, "a try")  # type: ignore[misc]
        monkeypatch.setattr(seen, "seen", real)
        felt.felt()
        wait_until(lambda: seen_at("test.pulse"), 10, "a sign after all")
    finally:
        felt.stop()
    assert [record.getMessage() for record in caplog.records] == ["test.pulse: its sign of life could not be written: OperationalError"]


def test_a_sign_is_dated_by_the_database(committed_db: None) -> None:
    seen.seen(name="test.pulse", holder="x" * 200)
    row = Claim.objects.get(name="test.pulse")
    assert row.done_at is not None
    assert abs(timezone.now() - row.done_at) < timedelta(minutes=1)
    assert len(row.holder) == 100
