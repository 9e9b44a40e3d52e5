"""The race's own side: starts the processes, tells them what to do, and holds them at a door until all of them are there.

The door is a table lock: everybody may read behind it and nobody write, so that without the ledger's own lock all would have read the
same before the first one writes.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from sessions_app.services.connections import open_connection
from tests.queue.race_worker import LEDGERS, NAME
from tests.world import database_url

ALL_THERE_S = 1.0  # well under the ledger's own time-out for a lock
PROJECT = Path(__file__).resolve().parent.parent.parent
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock' AND datname = current_database()"


@dataclass
class Told:
    """What all of them did, in sum."""

    admitted: list[str] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    promoted: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Racers:
    """16 connections in 4 processes."""

    def __init__(self, process: "subprocess.Popen[str]", door: psycopg.Connection[Any]) -> None:
        self._process = process
        self._door = door

    def flood(self, tenant_id: int, rounds: int) -> Told:
        """Let every ledger ask and end as fast as it can."""
        self._tell([["flood", tenant_id, rounds]] * LEDGERS)
        return self._hear()

    def race(self, plans: Sequence[list[list[Any]]]) -> Told:
        """Let each ledger apply one batch, all at once."""
        busy = sum(bool(each) for each in plans)
        with self._door.transaction():
            self._door.execute("LOCK TABLE sessions_app_session IN SHARE MODE")
            self._tell([*plans, *[[]] * (LEDGERS - len(plans))])
            until, waiting = time.monotonic() + ALL_THERE_S, 0
            while waiting < busy and time.monotonic() < until:
                # A look every few milliseconds: a busy loop would take the racers' processor.
                self._door.execute("SELECT pg_stat_clear_snapshot(), pg_sleep(0.005)")
                waiting = self._door.execute(WAITING, (NAME,)).fetchall()[0][0]
        return self._hear()

    def _tell(self, plans: Sequence[list[Any]]) -> None:
        assert self._process.stdin is not None
        print(json.dumps(list(plans)), file=self._process.stdin, flush=True)

    def _hear(self) -> Told:
        told = Told()
        for answer in json.loads(said(self._process)):
            for name, value in answer.items():
                getattr(told, name).extend(value if isinstance(value, list) else [value])
        return told


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the racers died"
    return line


@contextmanager
def racers(*arguments: str) -> Iterator[Racers]:
    environment = os.environ | {"DATABASE_URL": database_url()}
    command = [sys.executable, "-m", "tests.queue.race_worker", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert said(process) == "ready\n"
            with open_connection(name="door") as door:
                yield Racers(process, door)
        finally:
            process.communicate()  # the end of its input is its end
