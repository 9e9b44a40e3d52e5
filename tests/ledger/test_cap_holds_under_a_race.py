"""A race that is one: every attempt waits in front of the same door until all of them are there.

The door is a table lock of this test: it lets everybody read and nobody write, so that without the ledger's own lock all would have
counted before the first one is written.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.utils import timezone

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.models import BackendHealth
from sessions_app.selectors import verification
from sessions_app.services.connections import open_connection
from sessions_app.services.ledger import Ledger
from tests.ledger.race_worker import ATTEMPTS, NAME
from tests.world import database_url, make_backend, make_tenant

CAP = 10
ROUNDS = 50
ALL_THERE_S = 1.0  # well under the ledger's own time-out for a lock
PROJECT = Path(__file__).resolve().parent.parent.parent
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock' AND datname = current_database()"


class Racers:
    """64 connections in 8 processes."""

    def __init__(self, process: "subprocess.Popen[str]", door: psycopg.Connection[Any]) -> None:
        self._process = process
        self._door = door

    def race(self, tenant_id: int) -> list[uuid.UUID]:
        """Let all attempts go at once and return the sessions that were admitted."""
        assert self._process.stdin is not None
        with self._door.transaction():
            self._door.execute("LOCK TABLE sessions_app_session IN SHARE MODE")
            print(tenant_id, file=self._process.stdin, flush=True)
            self._wait_until_all_wait()
        return [uuid.UUID(word) for word in said(self._process).split()]

    def _wait_until_all_wait(self) -> None:
        until = time.monotonic() + ALL_THERE_S
        waiting = 0
        while waiting < ATTEMPTS and time.monotonic() < until:
            # A look every few milliseconds: a busy loop would take the racers' processor.
            self._door.execute("SELECT pg_stat_clear_snapshot(), pg_sleep(0.005)")
            waiting = self._door.execute(WAITING, (NAME,)).fetchall()[0][0]


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the racers died"
    return line


@contextmanager
def racers(*arguments: str) -> Iterator[Racers]:
    environment = os.environ | {"DATABASE_URL": database_url()}
    command = [sys.executable, "-m", "tests.ledger.race_worker", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert said(process) == "ready\n"
            with open_connection(name="door") as door:
                yield Racers(process, door)
        finally:
            process.communicate()  # the end of its input is its end


@pytest.fixture
def tenant_id(committed_db: None) -> int:
    make_backend()
    BackendHealth.objects.update(last_probe_at=timezone.now() + timedelta(hours=1))  # healthy for as long as this takes
    return make_tenant(max_concurrent_sessions=CAP, sessions_per_minute=None).id


@pytest.mark.slow
def test_exactly_the_cap_is_admitted_of_64_simultaneous_attempts_in_each_of_50_rounds(tenant_id: int, ledger: Ledger) -> None:
    with racers() as race:
        for _ in range(ROUNDS):
            admitted = race.race(tenant_id)
            assert len(admitted) == CAP
            assert ledger.apply([End(each, Reason.COMPLETED) for each in admitted]) == [True] * CAP
    assert verification.discrepancies() == []


@pytest.mark.slow
def test_without_the_ledgers_lock_more_than_the_cap_are_admitted(tenant_id: int) -> None:
    with racers("--without-lock") as race:
        assert len(race.race(tenant_id)) > CAP
