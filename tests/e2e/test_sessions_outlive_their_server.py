"""One of two web processes goes, by ``kill -9`` or by SIGTERM, under 50 live sessions: their clients go on talking on the other one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessions_app.models import Node, Session, SessionEvent, Slot
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import new_token, over
from tests.e2e.server import Server, manage, wait_until

SESSIONS = 50
FRAME = b"\x01\x02" * 480


@pytest.fixture
def going(server: Server, tmp_path: Path) -> Iterator[Server]:
    """The process that goes, beside the one that stays."""
    other = Server(tmp_path, server=server.kind)
    other.start()
    yield other
    other.end()


@pytest.fixture
def crowd(going: Server, new_tenant: Callable[..., Tenant]) -> Iterator[list[tuple[Call, dict[str, Any]]]]:
    """As many sessions as their tenant may have, all on the process that goes, with their ``session.started``."""
    tenant = new_tenant(max_concurrent_sessions=SESSIONS)
    calls = [Call(going.socket_url, new_token(tenant, f"user-{number}")) for number in range(SESSIONS)]
    yield [(call, call.start()) for call in calls]
    for call in calls:
        call.end()


def come_back(server: Server, crowd: list[tuple[Call, dict[str, Any]]], *, closed_with: int) -> None:
    """Each client notices the loss, comes back to the other process, and talks; no slot more is taken."""
    tenant_id = Slot.objects.get(pk=crowd[0][1]["session_id"]).tenant_id
    for call, started in crowd:
        assert call.closed() == closed_with
        back = Call(server.socket_url, started["resume_token"])
        try:
            assert back.message("session.resumed")["session_id"] == started["session_id"]
            assert back.exchange([FRAME]) == [FRAME]
            assert Slot.objects.filter(tenant_id=tenant_id).count() == SESSIONS
        except BaseException:
            back.end()
            raise
        call.end()
        call.socket, call._open = back.socket, back._open
    assert set(Slot.objects.filter(tenant_id=tenant_id).values_list("state", flat=True)) == {"active"}
    assert "clean" in manage("verify_capacity")


def assert_all_end_as_completed(crowd: list[tuple[Call, dict[str, Any]]]) -> None:
    for call, started in crowd:
        call.say({"type": "session.stop"})
        assert call.message("session.ended")["reason"] == "completed"
        assert over(started["session_id"]).reason == "completed"
    assert Session.objects.filter(tenant=Session.objects.get(pk=crowd[0][1]["session_id"]).tenant).count() == SESSIONS
    assert "clean" in manage("verify_capacity", "--history")


def test_after_a_kill_all_talk_again_on_the_other_one(server: Server, going: Server, crowd: list[tuple[Call, dict[str, Any]]]) -> None:
    going.kill()
    come_back(server, crowd, closed_with=1006)
    assert_all_end_as_completed(crowd)
    wait_until(lambda: Node.objects.filter(state="lost").exists(), 20, "the sweep of the dead node")


def test_after_a_sigterm_no_session_ends(server: Server, going: Server, crowd: list[tuple[Call, dict[str, Any]]]) -> None:
    assert going.stop() == 0
    assert going.complaints() == []
    sessions = [started["session_id"] for _, started in crowd]
    assert not Session.objects.filter(pk__in=sessions, ended_at__isnull=False).exists()
    assert SessionEvent.objects.filter(session__in=sessions, new="reconnecting", reason="drained").count() == SESSIONS
    come_back(server, crowd, closed_with=4012)
    assert_all_end_as_completed(crowd)
