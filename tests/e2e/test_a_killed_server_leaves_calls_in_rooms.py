"""``kill -9`` of the web process that admitted a WebRTC call: the call goes on, and another process ends it when it is time."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessions_app.models import Node, Room, Session, Slot, WebhookEvent
from sessions_app.services import ending
from tests.e2e.client import Call
from tests.e2e.rows import over, states
from tests.e2e.server import Server, manage, wait_until
from tests.livekit.people import Person
from tests.livekit_server import NewLiveKit
from tests.rooms.scene import make_backend
from tests.world import make_tenant
from voiceplatform.embedded.livekit import LiveKit


@pytest.fixture
def survivor(server: Server, tmp_path: Path) -> Iterator[Server]:
    """Another web process on the same database."""
    other = Server(tmp_path, server=server.kind)
    other.start()
    yield other
    other.end()


@pytest.fixture
def media(server: Server, survivor: Server, new_livekit: NewLiveKit) -> LiveKit:
    """A livekit-server that tells both web processes, each event twice therefore."""
    running = new_livekit(webhooks=[f"{each.origin}/webhooks/livekit/livekit/" for each in (server, survivor)])
    make_backend(running)
    return running


def test_it_goes_on_and_is_ended_by_another_process(server: Server, survivor: Server, media: LiveKit, dial: Callable[..., Call]) -> None:
    assert media.pid
    tenant = make_tenant("rooms", grace_s=2)
    call = dial(tenant)
    call.say({"type": "session.start", "transport": "webrtc", "backend": "livekit"})
    started = call.message("session.started")
    starting = dial(tenant, "never-joins")
    starting.say({"type": "session.start", "transport": "webrtc", "backend": "livekit"})
    waiting = starting.message("session.started")["session_id"]
    with asyncio.Runner() as runner:
        person = runner.run(_enter(started["livekit"]))
        session_id = started["session_id"]
        wait_until(lambda: Session.objects.get(pk=session_id).state == "active", what="the join")
        server.kill()
        assert call.closed() == 1006
        wait_until(lambda: Node.objects.filter(state=Node.State.LOST).exists(), 20, "the node's loss")
        # Who was told where to go and never came has lost the slot with the node; who is there has not.
        assert over(waiting, 20).reason == "client_lost"
        assert states(session_id) == ["starting", "active"]
        assert Slot.objects.filter(pk=session_id).exists()
        ending.request_end(session_id=session_id, actor="ops")
        assert over(session_id).reason == "terminated"
        wait_until(lambda: Room.objects.get(pk=session_id).closed_at is not None, what="the room's removal")
        runner.run(_sent_away(person))
    assert "clean" in manage("verify_capacity")
    names = WebhookEvent.objects.filter(session_id=session_id).values_list("name", "event_id")
    assert len({event_id for _, event_id in names}) == len(names)
    assert {"room_started", "participant_joined"} <= {name for name, _ in names}
    server.launch()
    server.wait_ready()
    assert survivor.complaints() == []


async def _enter(client: dict[str, Any]) -> Person:
    return await Person().enter(client["url"], client["token"])


async def _sent_away(person: Person) -> None:
    async with asyncio.timeout(20):
        await person.gone
    await person.leave()
