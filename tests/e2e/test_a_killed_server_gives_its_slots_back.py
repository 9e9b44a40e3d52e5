"""``kill -9`` of the web process with live sessions: another process on the same database gives their slots back."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessions_app.models import Node, Session, Slot
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import states
from tests.e2e.server import Server, manage, wait_until

SESSIONS = 20
FREE_S = 20.0


@pytest.fixture
def survivor(server: Server, tmp_path: Path) -> Iterator[Server]:
    """Another web process on the same database, not yet started."""
    other = Server(tmp_path, server=server.kind)
    yield other
    other.end()


def test_all_slots_are_free_in_twenty_seconds_and_the_history_says_why(
    server: Server, survivor: Server, dial: Callable[..., Call], new_tenant: Callable[..., Tenant]
) -> None:
    tenant = new_tenant(max_concurrent_sessions=SESSIONS)
    calls = [dial(tenant, f"user-{number}") for number in range(SESSIONS)]
    started = [call.start()["session_id"] for call in calls]
    # One of them in its grace: its own end is no later than that of the others.
    calls[0].drop()
    wait_until(lambda: Slot.objects.filter(tenant_id=tenant.pk, state="reconnecting").count() == 1)
    lost = Node.objects.get()
    survivor.start()

    server.kill()
    killed = time.monotonic()
    assert calls[1].closed() == 1006
    manage("verify_capacity")
    server.launch()
    wait_until(lambda: not Slot.objects.filter(tenant_id=tenant.pk).exists(), FREE_S - (time.monotonic() - killed), "the slots' freedom")
    ended = Session.objects.filter(pk__in=started)
    assert set(ended.values_list("state", flat=True)) == {"ended"}
    assert set(ended.exclude(pk=started[0]).values_list("reason", flat=True)) == {"node_lost"}
    assert ended.get(pk=started[0]).reason in {"client_lost", "node_lost"}
    assert states(started[1]) == ["starting", "active", "reconnecting", "ended"]
    lost.refresh_from_db()
    assert lost.state == Node.State.LOST
    assert "clean" in manage("verify_capacity")
    server.wait_ready()
    dial(tenant, "late").start()
    assert survivor.complaints() == []
