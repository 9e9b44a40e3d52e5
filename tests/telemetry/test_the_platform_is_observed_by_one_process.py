import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.runtime import observer, telemetry
from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.services import claims
from sessions_app.services.ledger import Ledger
from tests.telemetry.receiver import Receiver
from tests.world import admit, admitted, database_url, make_backend, make_tenant
from voiceplatform import processes
from voiceplatform.telemetry_sdk import Pipeline

ACTIVE, HEALTH = "voice.backend.active_sessions", "voice.backend.health"
PROJECT = Path(__file__).resolve().parent.parent.parent
CLAIM_S = 2.0


def expire(sql: psycopg.Connection[Any]) -> None:
    sql.execute("UPDATE sessions_app_claim SET until = clock_timestamp() - interval '1 second' WHERE name = 'metrics'")


async def test_each_backend_has_its_count_and_its_health(batcher: Batcher, pipeline: Pipeline, receiver: Receiver) -> None:
    await in_thread(make_backend, "busy")
    await in_thread(make_backend, "sick", healthy=False)
    await in_thread(make_backend, "off", enabled=False)
    tenant = await in_thread(make_tenant)
    sessions = [(await batcher.submit(admit(tenant))).session_id for _ in range(3)]
    await batcher.submit(End(sessions[0], Reason.COMPLETED))
    await observer.observe_round(holder="first")
    pipeline.flush()
    assert {each.attributes["backend"]: each.value for each in receiver.points[ACTIVE]} == {"busy": 2, "sick": 0}
    assert {each.attributes["backend"]: each.value for each in receiver.points[HEALTH]} == {"busy": 1, "sick": 0}


async def test_a_backend_that_nobody_has_probed_for_long_is_not_healthy(
    sql: psycopg.Connection[Any], pipeline: Pipeline, receiver: Receiver
) -> None:
    await in_thread(make_backend)
    sql.execute("UPDATE sessions_app_backendhealth SET last_probe_at = clock_timestamp() - interval '1 hour'")
    await observer.observe_round(holder="first")
    pipeline.flush()
    assert [each.value for each in receiver.points[HEALTH]] == [0]


async def test_who_does_not_hold_the_claim_tells_nothing(sql: psycopg.Connection[Any], pipeline: Pipeline, receiver: Receiver) -> None:
    await in_thread(make_backend)
    assert await in_thread(claims.claim, name=observer.CLAIM, holder="another", seconds=60)
    await observer.observe_round(holder="first")
    pipeline.flush()
    assert ACTIVE not in receiver.points
    expire(sql)
    await observer.observe_round(holder="first")
    pipeline.flush()
    assert len(receiver.points[ACTIVE]) == 1
    # It lost the claim while it stood still: what it has read is told no more.
    expire(sql)
    assert await in_thread(claims.claim, name=observer.CLAIM, holder="another", seconds=60)
    await observer.observe_round(holder="first")
    pipeline.flush()
    assert len(receiver.points[ACTIVE]) == 1


async def test_what_was_read_is_told_only_as_long_as_the_claim_holds(committed_db: None, pipeline: Pipeline, receiver: Receiver) -> None:
    telemetry.observed([telemetry.BackendNow("loopback", 7, True)], until=time.monotonic() - 0.001)
    pipeline.flush()
    assert ACTIVE not in receiver.points


async def test_without_export_nobody_claims(sql: psycopg.Connection[Any]) -> None:
    await observer.observe_round(holder="first")
    assert sql.execute("SELECT count(*) FROM sessions_app_claim").fetchall() == [(0,)]


@contextmanager
def observing(name: str, receiver: Receiver, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
    }
    with (folder / f"{name}.log").open("wb") as output:
        command = [sys.executable, "-m", "tests.telemetry.observing", name, str(CLAIM_S)]
        process = processes.spawn(command, environment=environment, folder=PROJECT, output=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_killed_observer_leaves_nothing_wrong_and_another_takes_over(
    ledger: Ledger, sql: psycopg.Connection[Any], receiver: Receiver, tmp_path: Path
) -> None:
    make_backend(cap=None)
    tenant = make_tenant()
    sessions = [admitted(each).session_id for each in ledger.apply([admit(tenant) for _ in range(4)])]

    def told() -> float | None:
        point = receiver.latest(ACTIVE, backend="loopback")
        return None if point is None else point.value

    def holder() -> str:
        return str(sql.execute("SELECT holder FROM sessions_app_claim WHERE name = 'metrics'").fetchall()[0][0])

    with observing("first", receiver, tmp_path) as first:
        receiver.wait(lambda: told() == 4, "the first observer's count")
        assert holder() == "first"
        with observing("second", receiver, tmp_path):
            first.kill()
            first.wait()
            ledger.apply([End(each, Reason.COMPLETED) for each in sessions[:3]])
            receiver.wait(lambda: told() == 1, "the second observer's count")
            assert holder() == "second"
    # One series, whoever tells it: a sum over all processes is right before, during and after.
    series = {(each.resource["service.instance.id"], each.attributes["backend"]) for each in receiver.points[ACTIVE]}
    assert series == {("platform", "loopback")}
    values = [each.value for each in sorted(receiver.points[ACTIVE], key=lambda each: each.at)]
    assert values == sorted(values, reverse=True)
    assert set(values) == {4, 1}


async def test_a_claim_is_renewed_by_its_holder_and_taken_by_one_of_many(committed_db: None) -> None:
    tries = await asyncio.gather(*(in_thread(claims.claim, name="job", holder=f"{n}", seconds=60) for n in range(8)))
    assert sum(tries) == 1
    winner = str(tries.index(True))
    assert await in_thread(claims.claim, name="job", holder=winner, seconds=60)
    assert not await in_thread(claims.claim, name="job", holder="another", seconds=60)
