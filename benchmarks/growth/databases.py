"""Copies of one migrated database in one PostgreSQL, each with client processes of its own, so that blocks of two of them can take turns.

Owns: the copies, bulk rows in them, and asking the product's ``verify_capacity`` about them. Bulk rows are as the ledger would have
written them: sessions with both of their events, numbered in order, tenants whose limits the triggers have recorded.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.stage import PROJECT
from benchmarks.harness.workers import Message, Worker

PROCESSES: Final = 2
READY_S: Final = 30.0
LIVE_S: Final = 300.0  # to fill or empty a long queue
CHUNK: Final = 100_000  # sessions of one insert
WRITERS: Final = 2
TENANTS_AT_ONCE: Final = 200  # each takes a lock until its transaction is over
OVER_DAYS: Final = 30
USERS: Final = 1000  # of each tenant, in the history

# Session i has its slot from number 2i to 2i + 1: never are two there at the same time.
_HISTORY: Final = """
WITH made AS MATERIALIZED (
    SELECT i, %(from)s::timestamptz + i * %(step)s::interval AS at,
        (%(tenants)s::bigint[])[1 + i %% cardinality(%(tenants)s::bigint[])] AS tenant
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i),
ids AS MATERIALIZED (
    SELECT *, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(i %% 4096), 3, '0')
               || '8' || substr(md5(i::text), 1, 15))::uuid AS id FROM made),
sessions AS (
    INSERT INTO sessions_app_session (id, tenant_id, "user", state, reason, detail, backend_id, pipeline, transport, metadata, node_id,
        limits, burst, attempted_at, started_at, active_at, ended_at, trace_id)
    SELECT id, tenant, 'past-' || i %% %(users)s, 'ended', 'completed', '', %(backend)s, 's2s', 'websocket', '{}', %(node)s,
        %(limits)s, false, at, at, NULL, at + %(step)s::interval / 2, '' FROM ids)
INSERT INTO sessions_app_sessionevent (id, session_id, old, new, reason, node_id, actor, detail, tenant_id, backend_id, seq, at)
SELECT %(event)s + 2 * i + n, id, old, new, reason, %(node)s, '', '{}', tenant, %(backend)s, %(seq)s + 2 * i + n,
    at + n * %(step)s::interval / 2
FROM ids CROSS JOIN (VALUES (0, '', 'starting', ''), (1, 'starting', 'ended', 'completed')) AS change(n, old, new, reason)"""
_LIMITS: Final = """[{"used": 0, "limit": 2, "scope": "user"}, {"used": 0, "limit": 40000, "scope": "tenant"},
{"used": 0, "limit": 40000, "scope": "backend"}, {"used": 0, "limit": 40000, "scope": "platform"}]"""


class Database:
    """One copy with its client processes; a context manager.

    Args:
        template: URL of the database that is copied; nobody may be connected to it.
        name: Of the copy.
    """

    def __init__(self, template: str, name: str) -> None:
        self.name = name
        self.url = urlunsplit(urlsplit(template)._replace(path=f"/{name}"))
        self._template = template
        self._stack = ExitStack()
        self._clients: list[Worker] = []
        self._filled = 0

    def __enter__(self) -> Self:
        original = urlsplit(self._template).path.removeprefix("/")
        with psycopg.connect(urlunsplit(urlsplit(self._template)._replace(path="/postgres")), autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [original])
            connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(self.name), sql.Identifier(original)))
        with self._stack:
            self.connection = self._stack.enter_context(psycopg.connect(self.url, autocommit=True))
            before = os.environ["DATABASE_URL"]
            os.environ["DATABASE_URL"] = self.url  # children take it from here
            try:
                self._clients = [self._stack.enter_context(Worker("benchmarks.growth.client", {})) for _ in range(PROCESSES)]
            finally:
                os.environ["DATABASE_URL"] = before
            for each in self._clients:
                each.hear("ready", READY_S)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    # --- what the clients do ---------------------------------------------------------------------------------------------------
    def block(self, tenants: list[int], waiting: int, seconds: float) -> Message:
        """Run a block; return ``rate``, pairs a second, and ``late_ms``, how long its admissions took.

        Raises:
            BenchmarkError: somebody was refused, so that it is not the block that was meant.
        """
        # The probes of the original do not come here.
        self.connection.execute("UPDATE sessions_app_backendhealth SET last_probe_at = clock_timestamp()")
        share = waiting // PROCESSES
        for i, client in enumerate(self._clients):
            client.say({"do": "block", "waiting": share, "seconds": seconds, "tenants": tenants, "first": i * share})
        heard = [each.hear("result", seconds + 60.0) for each in self._clients]
        if refused := sum(each["refused"] for each in heard):
            raise BenchmarkError(f"{refused} attempts were refused in {self.name}.")
        return {"rate": sum(each["pairs"] for each in heard) / seconds, "late_ms": [ms for each in heard for ms in each["late_ms"]]}

    def add(self, count: int, tenants: list[int], *, user: str, backend: str = "", state: str) -> None:
        """Let so many sessions begin, or wait, and stay.

        Args:
            count: Of sessions.
            tenants: Whose they are, in turns.
            user: Of each, with ``{}`` for its number.
            backend: That they ask for; empty: any.
            state: ``active`` or ``queued``: what has to become of them.

        Raises:
            BenchmarkError: something else did.
        """
        self.connection.execute("UPDATE sessions_app_backendhealth SET last_probe_at = clock_timestamp()")
        share = count // PROCESSES
        for i, client in enumerate(self._clients):
            own = count - share * (PROCESSES - 1) if i == PROCESSES - 1 else share
            client.say({"do": "add", "first": i * share, "count": own, "tenants": tenants, "user": user, "backend": backend})
        found = sum(each.hear("result", LIVE_S)[state] for each in self._clients)
        if found != count:
            raise BenchmarkError(f"of {count} sessions in {self.name} {found} are {state}.")

    def drop(self) -> None:
        """End what ``add`` began."""
        for each in self._clients:
            each.say({"do": "drop"})
        for each in self._clients:
            each.hear("result", LIVE_S)

    # --- rows in bulk ----------------------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """Let vacuum do at once what it would do in its own time, and write what is dirty."""
        self.connection.execute("VACUUM (ANALYZE)")
        self.connection.execute("CHECKPOINT")

    def add_tenants(self, count: int, like: int) -> list[int]:
        """Make tenants with the quota of this one and return their ids."""
        ids: list[int] = []
        columns = [
            row[0]
            for row in self.connection.execute(
                """SELECT column_name FROM information_schema.columns
                WHERE table_name = 'tenants_quota' AND column_name NOT IN ('id', 'tenant_id')"""
            )
        ]
        named = sql.SQL(", ").join(map(sql.Identifier, columns))
        for first in range(0, count, TENANTS_AT_ONCE):
            with self.connection.transaction():
                some = self.connection.execute(
                    """INSERT INTO tenants_tenant (slug, name, status, created_at)
                    SELECT 'more-' || gen_random_uuid(), 'One of many', 'active', clock_timestamp()
                    FROM generate_series(1, %s) RETURNING id""",
                    [min(TENANTS_AT_ONCE, count - first)],
                ).fetchall()
                some_ids = [row[0] for row in some]
                copy = sql.SQL(
                    """INSERT INTO tenants_quota (tenant_id, {0})
                    SELECT t.id, {0} FROM tenants_quota, unnest(%s::bigint[]) AS t(id) WHERE tenant_id = %s"""
                )
                self.connection.execute(copy.format(named), [some_ids, like])
                ids += some_ids
        return ids

    def fill(self, total: int, *, of: int, tenants: list[int], backend: int, say: Any) -> None:
        """Let the history have so many sessions that are over.

        Args:
            total: In all, with those that were filled in before.
            of: The most there will ever be, so that their times fit.
            tenants: Whose they are, in turns.
            backend: Where they were.
            say: Takes how many there are, now and then.
        """
        step_us = OVER_DAYS * 86_400_000_000 // of
        seq, event, began = self._reserve(total)
        told = {"from": began, "step": f"{step_us} microseconds", "tenants": tenants, "users": USERS, "backend": backend, "limits": _LIMITS}
        told |= {"seq": seq, "event": event, "node": "00000000-0000-4000-8000-000000000000"}
        chunks = [(first, min(first + CHUNK, total) - 1) for first in range(self._filled, total, CHUNK)]

        def write(writer: int) -> None:
            with psycopg.connect(self.url) as connection:
                for number, (first, last) in enumerate(chunks[writer::WRITERS]):
                    connection.execute("SELECT set_config('voice.ledger', 'on', true), set_config('synchronous_commit', 'off', true)")
                    connection.execute(_HISTORY, {**told, "first": first, "last": last})
                    connection.commit()
                    if not writer and number % 5 == 4:
                        say(last + 1)

        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, range(WRITERS)))
        self._filled = total
        self.settle()

    def _reserve(self, total: int) -> tuple[int, int, Any]:
        """Take numbers for the events and return what they begin behind, as if session 0 were the first of this call's."""
        count = 2 * (total - self._filled)
        seq, event, began = self.connection.execute(
            """SELECT setval('voice_ledger_seq', nextval('voice_ledger_seq') + %(n)s) - %(n)s,
            setval(name, nextval(name) + %(n)s) - %(n)s, clock_timestamp() - make_interval(days => %(days)s)
            FROM pg_get_serial_sequence('sessions_app_sessionevent', 'id') AS name""",
            {"n": count, "days": OVER_DAYS},
        ).fetchall()[0]
        return seq - 2 * self._filled, event - 2 * self._filled, began

    def size_gb(self) -> float:
        """Return how much of the disk it has."""
        return float(self.connection.execute("SELECT pg_database_size(current_database()) / 1e9").fetchall()[0][0])

    # --- what the product says of it ---------------------------------------------------------------------------------------------
    def verify(self, *, history: bool) -> list[str]:
        """Return what ``verify_capacity`` finds."""
        command = [sys.executable, "manage.py", "verify_capacity", *(["--history"] if history else [])]
        done = subprocess.run(
            command, cwd=PROJECT, env={**os.environ, "DATABASE_URL": self.url}, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return []
        said = (done.stdout + done.stderr).strip().splitlines()
        return [f"{self.name}: {line}" for line in said[-3:]] or [f"{self.name}: verify_capacity returned {done.returncode}"]
