"""An operator ends a session, whichever process carries it: by the database alone, so also while the channel layer is away."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessions_app.models import SessionEvent
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import new_token, over, slots
from tests.e2e.server import Server, manage
from tests.platform.instance import free_port

SOON_S = 5.0  # it takes a second or so; a busy machine may take longer


@pytest.fixture
def deaf(server: Server, tmp_path: Path) -> Iterator[Server]:
    """A process whose channel layer nobody answers."""
    other = Server(tmp_path, server=server.kind, VALKEY_URL=f"redis://127.0.0.1:{free_port()}/0")
    other.start()
    yield other
    other.end()


@pytest.mark.parametrize("where", ["server", "deaf"])
def test_the_client_hears_of_it_and_who_and_why_are_kept(
    server: Server, deaf: Server, new_tenant: Callable[..., Tenant], where: str
) -> None:
    tenant = new_tenant()
    call = Call((deaf if where == "deaf" else server).socket_url, new_token(tenant))
    try:
        session_id = call.start()["session_id"]
        asked = time.monotonic()
        said = manage("end_session", session_id, "--reason", "Asked by support.")
        assert call.message("session.ended")["reason"] == "terminated"
        assert call.closed() == 4410
        assert time.monotonic() - asked < SOON_S
    finally:
        call.end()
    ended = over(session_id)
    assert (ended.state, ended.reason, ended.detail) == ("ended", "terminated", "Asked by support.")
    event = SessionEvent.objects.get(session=session_id, new="ended")
    assert event.actor.startswith("command:")
    assert slots(tenant) == 0
    assert "ended" in said


def test_one_that_waits_for_its_client_ends_too(server: Server, new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(grace_s=60)
    call = Call(server.socket_url, new_token(tenant))
    started = call.start()
    call.drop()
    call.end()
    manage("end_session", started["session_id"])
    assert over(started["session_id"]).reason == "terminated"
    late = Call(server.socket_url, started["resume_token"])
    try:
        assert late.message("session.rejected")["code"] == "authentication_failed"
        assert late.closed() == 4401
    finally:
        late.end()


def test_one_that_waits_in_the_queue_leaves_it(server: Server, new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(max_concurrent_sessions=0, max_queue_length=1)
    call = Call(server.socket_url, new_token(tenant))
    try:
        call.say({"type": "session.start"})
        session_id = call.message("session.queued")["session_id"]
        manage("end_session", session_id)
        assert call.message("session.rejected")["code"] == "terminated"
        assert call.closed() == 4410
    finally:
        call.end()
    assert (over(session_id).state, over(session_id).reason) == ("abandoned", "terminated")
