"""What every method meets: the same tenants and caps, the product's and the rivals' tables, a healthy backend, and a clean start.

Owns: what is done between two blocks. Limits are the same throughout, so that the history can be held against them at the end.
"""

import asyncio
import os
import threading
from types import TracebackType
from typing import Any, Final, Self

import psycopg
import redis

from benchmarks.harness.stage import Stage

TENANTS: Final = 100
CAP: Final = 1000  # of the platform and of the backend
TENANT_LIMIT: Final = 600
USER_LIMIT: Final = 2
RATE: Final = 100_000_000  # sessions a minute; in force, and never used up
RACE_LIMIT: Final = 10
PROBE_S: Final = 5.0


class Healthy:
    """Probes backends as the product's schedule does, from a thread, for as long as it is entered."""

    def __init__(self) -> None:
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def __enter__(self) -> Self:
        self._probe()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._enough.wait(PROBE_S):
            self._probe()

    @staticmethod
    def _probe() -> None:
        from sessions_app.runtime import prober

        asyncio.run(prober.probe_due_once(age_s=PROBE_S))


class Setting:
    """A context manager on a stage.

    Attributes:
        tenants: Ids; the first is the hot one.
        race: Id of the tenant with a limit of ``RACE_LIMIT``.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._healthy = Healthy()
        self.tenants: list[int] = []
        self.race = 0

    def __enter__(self) -> Self:
        stage = self._stage
        stage.manage("set_platform", f"max_concurrent_sessions={CAP}")
        stage.backend(cap=CAP)
        quota = {"max_sessions_per_user": USER_LIMIT, "sessions_per_minute": RATE}
        self.tenants = [stage.tenant(f"tenant-{i}", max_concurrent_sessions=TENANT_LIMIT, **quota) for i in range(TENANTS)]
        self.race = stage.tenant("race", max_concurrent_sessions=RACE_LIMIT, **quota)
        self._postgres: psycopg.Connection[Any] = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
        self._valkey = redis.Redis.from_url(os.environ["VALKEY_URL"])
        from benchmarks.admission import rivals

        self._postgres.execute(rivals.TABLES)
        with self._postgres.cursor() as cursor:
            limits = dict.fromkeys(self.tenants, TENANT_LIMIT) | {self.race: RACE_LIMIT}
            cursor.executemany('INSERT INTO rival_capacity (id, "limit") VALUES (%s, %s)', rivals.capacity_rows(limits, cap=CAP))
        self._healthy.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._healthy.__exit__(kind, error, trace)
        self._postgres.close()
        self._valkey.close()

    def tell(self) -> dict[str, Any]:
        """Return what client processes have to know."""
        return {"tenants": self.tenants, "race": self.race}

    def prepare(self, method: str) -> None:
        """Clear what blocks before this one left; nobody pays for another's dead rows."""
        from benchmarks.admission import rivals

        if method.startswith("valkey"):
            self._valkey.config_set("appendfsync", "everysec" if method.endswith("everysec") else "always")
        elif method != "ours":
            for statement in rivals.CLEAR:
                self._postgres.execute(statement)
