"""PostgreSQL is stopped under live sessions and started again: audio goes on, attempts are refused at once, nothing is lost."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessions_app.models import Node, Session
from tenants.models import Tenant
from tests.e2e import private_stores
from tests.e2e.client import Call
from tests.e2e.private_stores import away, clean, is_ready, refused_at_once, take_session, talks
from tests.e2e.rows import new_token, over, record, slots, states
from tests.e2e.server import Server, manage, wait_until
from voiceplatform.embedded import Postgres

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]
LONG_S = 18.0  # more than two leases, and more than a few steps of any backoff
RETURN_S = 8.0


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


@pytest.fixture
def other(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second node on the same PostgreSQL."""
    running = Server(tmp_path_factory.mktemp("other"), DATABASE_URL=postgres.url)
    try:
        running.start()
        yield running
    finally:
        running.end()


def test_audio_goes_on_attempts_are_refused_at_once_and_both_tokens_are_good_afterwards(
    postgres: Postgres, server: Server, dial: Dial, new_tenant: NewTenant
) -> None:
    tenant = new_tenant()
    live = dial(tenant)
    session_id = live.start()["session_id"]
    tokens = [new_token(tenant, f"user-{number}") for number in range(3)]
    with away(postgres):
        for token in tokens:  # the first one is the first to notice
            refused_at_once(dial(token=token))
            talks(live)
    is_ready(server)
    talks(live)
    for token in tokens:
        take_session(dial(token=token)).stop()
    live.stop()
    assert states(session_id) == ["starting", "active", "ended"]
    assert slots(tenant) == 0
    clean()


def test_an_end_of_the_outage_is_written_when_it_is_over(postgres: Postgres, server: Server, dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    stopping, leaving = dial(tenant), dial(tenant, "bob")
    stopped, left = (each.start()["session_id"] for each in (stopping, leaving))
    with away(postgres):
        assert stopping.stop()["reason"] == "completed"
        leaving.socket.close(1000)
    for session_id in (stopped, left):
        session = over(session_id)
        assert (session.state, session.reason) == ("ended", "completed")
        assert states(session_id) == ["starting", "active", "ended"]
    assert slots(tenant) == 0
    clean()


def test_who_drops_in_the_outage_comes_back_by_the_resume_token(
    postgres: Postgres, server: Server, dial: Dial, new_tenant: NewTenant
) -> None:
    tenant = new_tenant()
    call = dial(tenant)
    started = call.start()
    with away(postgres):
        call.drop()
        back = dial(token=started["resume_token"])
        resumed = back.message("session.resumed")
        assert resumed["session_id"] == started["session_id"]
        talks(back)
        back.drop()
        # The token of the connection that the ledger never heard of is good too.
        back = dial(token=resumed["resume_token"])
        assert back.message("session.resumed")["session_id"] == started["session_id"]
        talks(back)
    is_ready(server)
    wait_until(lambda: record(started["session_id"]).state == "active")
    assert slots(tenant) == 1
    talks(back)
    back.stop()
    assert over(started["session_id"]).reason == "completed"
    clean()


def test_who_does_not_come_back_in_the_outage_loses_the_session_and_the_slot(
    postgres: Postgres, server: Server, dial: Dial, new_tenant: NewTenant
) -> None:
    tenant = new_tenant(grace_s=1)
    call = dial(tenant)
    started = call.start()
    with away(postgres):
        call.drop()
        time.sleep(1.5)  # the grace
        refusal = dial(token=started["resume_token"]).message("session.rejected")
        assert refusal["code"] == "unavailable"
    assert over(started["session_id"]).reason == "client_lost"
    assert slots(tenant) == 0
    clean()


def test_after_a_long_outage_no_node_is_taken_for_lost_and_sessions_are_taken_again_within_seconds(
    postgres: Postgres, server: Server, other: Server, dial: Dial, new_tenant: NewTenant
) -> None:
    tenant = new_tenant()
    calls = [dial(tenant, f"user-{number}") for number in range(3)]
    calls.append(Call(other.socket_url, new_token(tenant, "elsewhere")))
    ids = [each.start()["session_id"] for each in calls]
    nodes = set(Node.objects.filter(state="up").values_list("pk", flat=True))
    assert len(nodes) == 2
    with away(postgres):
        until = time.monotonic() + LONG_S
        while time.monotonic() < until:
            for call in calls:
                talks(call)
            server.request("GET", "/readyz")
            time.sleep(0.3)
    back_at = time.monotonic()
    for each in (server, other):
        is_ready(each)
        fresh = Call(each.socket_url, new_token(tenant, "late"))
        fresh.start()
        fresh.stop()
        fresh.end()
    assert time.monotonic() - back_at < RETURN_S
    # Two leases later: whoever was to be taken for lost would have been.
    wait_until(lambda: time.monotonic() - back_at > 2 * 8.0, 30)
    assert set(Node.objects.filter(state="up").values_list("pk", flat=True)) == nodes
    for call, session_id in zip(calls, ids, strict=True):
        talks(call)
        call.stop()
        assert states(session_id) == ["starting", "active", "ended"]
    calls[-1].end()
    assert slots(tenant) == 0
    clean()


def test_the_probes_the_pages_and_the_api_say_so_plainly(postgres: Postgres, server: Server, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    key = manage("issue_api_key", tenant.slug).strip()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    browser = {"Accept": "text/html,application/xhtml+xml", "Cookie": "sessionid=abcdefghijklmnopqrstuvwxyz012345"}
    with away(postgres):
        assert server.request("GET", "/healthz")[0] == 200
        assert server.request("GET", "/readyz")[0] == 503
        status, told, body = server.request("POST", "/api/v1/connect-tokens", headers=headers, body=b'{"user": "ann"}')
        assert (status, json.loads(body)["code"], told["retry-after"]) == (503, "unavailable", "5")
        assert told["cache-control"] == "no-store"
        for path in ("/", "/talk/", "/ops/sessions/", "/ops/health/", "/admin/", "/admin/tenants/tenant/", "/accounts/login/"):
            status, told, body = server.request("GET", path, headers=browser)
            assert (status, told["retry-after"]) == (503, "5"), path
            assert b"<h1>" in body
            assert b"Traceback" not in body
            assert b"psycopg" not in body
        # A stranger can still be shown where to sign in: that asks nobody.
        assert server.request("GET", "/accounts/login/", headers={"Accept": "text/html"})[0] == 200
    is_ready(server)
    assert server.request("POST", "/api/v1/connect-tokens", headers=headers, body=b'{"user": "ann"}')[0] == 201
    assert Session.objects.filter(tenant=tenant).count() == 0
