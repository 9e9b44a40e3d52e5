"""Valkey is stopped under live sessions and started again: calls and pages go on, worker and beat come back by themselves."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from sessions_app.models import BackendHealth, Claim
from sessions_app.selectors import platform_health
from tenants.models import Tenant
from tests.e2e import private_stores
from tests.e2e.client import Call
from tests.e2e.private_stores import clean, talks
from tests.e2e.rows import over
from tests.e2e.server import Server, wait_until
from tests.e2e.visitor import Visitor
from tests.platform.instance import PROJECT
from voiceplatform import processes
from voiceplatform.embedded import Postgres, Valkey

CELERY = {
    "worker": ["worker", "--concurrency", "1", "--without-gossip", "--without-mingle"],
    "beat": ["beat", "--scheduler", "celery.beat:Scheduler", "--pidfile="],
}
AWAY_S = 12.0  # more than a period of every task
BACK_S = 60.0


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    store = Valkey(tmp_path_factory.mktemp("valkey"))
    store.start()
    yield store
    store.stop()


@pytest.fixture(scope="module")
def postgres(django_db_setup: None, django_db_blocker: Any) -> Iterator[Postgres]:
    with django_db_blocker.unblock(), private_stores.own_postgres() as store:
        yield store


@pytest.fixture(scope="module")
def shared_db(postgres: Postgres) -> None:
    """These tests' rows go with their PostgreSQL."""


@pytest.fixture(scope="module")
def environment(postgres: Postgres, valkey: Valkey) -> dict[str, str]:
    return {"DATABASE_URL": postgres.url, "VALKEY_URL": valkey.url}


@pytest.fixture(scope="module")
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has nothing to complain of while Valkey is away."""
    running = Server(tmp_path_factory.mktemp("server"), **environment)
    try:
        running.start()
        yield running
        running.stop()
        assert running.complaints() == []
    finally:
        running.end()


@pytest.fixture
def celery(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Worker and beat, as processes of their own on the same stores."""
    running = {}
    for name, words in CELERY.items():
        with (tmp_path / f"{name}.log").open("wb") as output:
            command = [sys.executable, "-m", "celery", "-q", "-A", "voiceplatform", *words]
            running[name] = processes.spawn(command, environment={**os.environ, **environment}, folder=PROJECT, output=output)
    yield running
    for process in running.values():
        processes.end(process)


def at_work(name: str) -> datetime | None:
    """When beat last sent a task, or the worker last was sent one."""
    return Claim.objects.filter(name=name).values_list("done_at", flat=True).first()


def both_at_work_since(moment: datetime) -> bool:
    return all((at := at_work(name)) is not None and at > moment for name in (platform_health.WORKER, platform_health.BEAT))


def test_calls_and_pages_go_on_and_worker_and_beat_come_back(
    valkey: Valkey, server: Server, admin: Visitor, celery: dict[str, Any], dial: Callable[..., Call], new_tenant: Callable[..., Tenant]
) -> None:
    tenant = new_tenant()
    live = dial(tenant)
    live.start()
    wait_until(lambda: both_at_work_since(timezone.now() - timedelta(minutes=1)), BACK_S, "signs of worker and beat")
    valkey.stop()
    stopped_at = time.monotonic()
    while time.monotonic() - stopped_at < AWAY_S:
        talks(live)
        fresh = dial(tenant, "bob")
        started = fresh.start()
        session_id = started["session_id"]
        talks(fresh)
        fresh.drop()
        back = dial(token=started["resume_token"])
        assert back.message("session.resumed")["session_id"] == session_id
        back.stop()
        assert over(session_id).reason == "completed"
        assert server.request("GET", "/readyz")[0] == server.request("GET", "/healthz")[0] == 200
        for path in ("/ops/sessions/", "/ops/health/", "/admin/tenants/tenant/"):
            assert "<html" in admin.get(path)
        time.sleep(0.5)
    valkey.start()
    back_at = timezone.now()
    wait_until(lambda: both_at_work_since(back_at), BACK_S, "signs of worker and beat")
    assert {name: process.poll() for name, process in celery.items()} == {"worker": None, "beat": None}
    talks(live)
    live.stop()
    assert BackendHealth.objects.get(backend__name="loopback").status == "healthy"
    clean()
