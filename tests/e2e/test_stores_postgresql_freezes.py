"""PostgreSQL stands still for longer than a lease: connections stay open and nothing is answered. Audio goes on, and nothing is lost."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessions_app.models import Node
from tenants.models import Tenant
from tests.e2e import private_stores
from tests.e2e.client import Call
from tests.e2e.private_stores import clean, frozen, is_ready, refused_at_once, talks
from tests.e2e.rows import over, slots, states
from tests.e2e.server import Server, wait_until
from voiceplatform.embedded import Postgres

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]
FROZEN_S = 12.0  # a lease and a half


@pytest.fixture(scope="module")
def postgres(django_db_setup: None, django_db_blocker: Any) -> Iterator[Postgres]:
    with django_db_blocker.unblock(), private_stores.own_postgres() as store:
        yield store


@pytest.fixture(scope="module")
def shared_db(postgres: Postgres) -> None:
    """These tests' rows go with their PostgreSQL."""


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose log tells outages in sentences."""
    running = Server(tmp_path_factory.mktemp("server"), DATABASE_URL=postgres.url)
    try:
        running.start()
        yield running
        running.stop()
        assert private_stores.tracebacks(running) == []
    finally:
        running.end()


def test_audio_goes_on_nothing_is_lost_and_what_ended_meanwhile_is_written(
    postgres: Postgres, server: Server, dial: Dial, new_tenant: NewTenant
) -> None:
    tenant = new_tenant()
    live, stopping, dropping = dial(tenant), dial(tenant, "bob"), dial(tenant, "cid")
    session_id, stopped, dropped = (each.start()["session_id"] for each in (live, stopping, dropping))
    nodes = set(Node.objects.filter(state="up").values_list("pk", flat=True))
    with frozen(postgres):
        assert stopping.stop()["reason"] == "completed"
        until = time.monotonic() + FROZEN_S
        while time.monotonic() < until:
            talks(live)
            time.sleep(0.3)
        assert server.request("GET", "/healthz")[0] == 200
    is_ready(server)
    assert over(stopped).reason == "completed"
    dial(tenant, "late").start()
    thawed_at = time.monotonic()
    wait_until(lambda: time.monotonic() - thawed_at > 2 * 8.0, 30)
    assert set(Node.objects.filter(state="up").values_list("pk", flat=True)) == nodes
    for call, each in ((live, session_id), (dropping, dropped)):
        talks(call)
        call.stop()
        assert states(each) == ["starting", "active", "ended"]
    assert slots(tenant) == 1
    clean()


def test_attempts_are_refused_in_bounded_time_and_then_at_once(
    postgres: Postgres, server: Server, dial: Dial, new_tenant: NewTenant
) -> None:
    tenant = new_tenant()
    live = dial(tenant)
    live.start()
    first, *rest = [dial(tenant, f"user-{number}") for number in range(4)]
    with frozen(postgres):
        refusal, code = first.refused()
        assert (refusal["code"], code) == ("unavailable", 4013)
        for call in rest:
            refused_at_once(call)
        talks(live)
    is_ready(server)
    dial(tenant, "late").start()
    wait_until(lambda: slots(tenant) == 2)
    clean()
