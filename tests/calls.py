"""What tests of the live path are made of: a node with its sessions, and a client that speaks ASGI to the real consumer.

Everything behind the client is real: consumer, runner, batcher, ledger, PostgreSQL, the loopback provider. Only the server's sockets
are left out.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from django.utils import timezone

from sessions_app.models import Backend, Session, SessionEvent, Slot
from sessions_app.runtime import backends, live
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.node import NodeRuntime
from sessions_app.runtime.sessions import Sessions
from sessions_app.services import tokens
from sessions_app.transport.consumers import VoiceConsumer
from tenants.models import Tenant
from tests import world

SOON_S = 5.0


@dataclass
class Closed:
    code: int


@dataclass
class Client:
    """One WebSocket to a consumer. ``said`` is everything that came, in order: dicts, bytes, and at last ``Closed``."""

    app: Any
    scope: dict[str, Any]
    said: list[Any] = field(default_factory=list)
    accepted: bool = False
    subprotocol: str | None = None
    http: dict[str, Any] = field(default_factory=dict)
    reads: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.reads.set()
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "websocket.connect"})
        self._more = asyncio.Condition()
        self._next = 0
        self.task = asyncio.create_task(self.app(self.scope, self._inbox.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        match message["type"]:
            case "websocket.accept":
                self.accepted, self.subprotocol = True, message["subprotocol"]
            case "websocket.send":
                self.said.append(json.loads(message["text"]) if message.get("text") is not None else message["bytes"])
            case "websocket.close":
                self.said.append(Closed(message.get("code", 1000)))
            case "websocket.http.response.start":
                self.http = {"status": message["status"], "headers": dict(message["headers"])}
            case "websocket.http.response.body":
                self.http["body"] = json.loads(message["body"])
                self.said.append(Closed(self.http["status"]))
                for _ in range(2):  # as uvicorn does
                    self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
        async with self._more:
            self._more.notify_all()

    async def hears(self, what: Any = None) -> Any:
        """Return the next thing of this kind (a message's type, ``bytes`` or ``Closed``); what came before it is passed over."""
        while True:
            async with asyncio.timeout(SOON_S), self._more:
                await self._more.wait_for(lambda: len(self.said) > self._next)
            thing = self.said[self._next]
            self._next += 1
            if what is None or (isinstance(thing, dict) and thing["type"] == what) or (isinstance(what, type) and isinstance(thing, what)):
                return thing

    def says(self, thing: Any) -> None:
        """Send a message (a dict), raw text, or audio."""
        if isinstance(thing, dict):
            thing = json.dumps(thing)
        self._inbox.put_nowait({"type": "websocket.receive", "bytes" if isinstance(thing, bytes) else "text": thing})

    async def starts(self, **fields: Any) -> dict[str, Any]:
        self.says({"type": "session.start", **fields})
        started: dict[str, Any] = await self.hears("session.started")
        return started

    async def resumes(self) -> dict[str, Any]:
        """What a client that came with a resume token is told at once."""
        resumed: dict[str, Any] = await self.hears("session.resumed")
        return resumed

    async def leaves(self, code: int | None = 1006) -> None:
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": code})
        await asyncio.wait_for(self.task, SOON_S)


def scope(
    *,
    token: str | None = None,
    subprotocols: list[str] | None = None,
    headers: dict[str, str] | None = None,
    query: str = "",
    http: bool = False,
) -> dict[str, Any]:
    if subprotocols is None:
        subprotocols = ["voice.v1"] + ([f"token.{token}"] if token else [])
    sent = {"host": "voice.test", **(headers or {})}
    return {
        "type": "websocket",
        "path": "/ws/voice/",
        "scheme": "ws",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "subprotocols": subprotocols,
        "extensions": {"websocket.http.response": {}} if http else {},
    }


@dataclass
class House:
    """A node with its sessions, and the door to it."""

    node: NodeRuntime
    sessions: Sessions
    clients: list[Client] = field(default_factory=list)

    def connect(self, token: str | None = None, **fields: Any) -> Client:
        client = Client(VoiceConsumer.as_asgi(sessions=lambda: self.sessions), scope(token=token, **fields))
        self.clients.append(client)
        return client

    def caller(self, tenant: Tenant, user: str = "ann") -> Client:
        return self.connect(self.token(tenant, user))

    @staticmethod
    def token(tenant: Tenant, user: str = "ann") -> str:
        return tokens.issue_connect_token(tenant_id=tenant.pk, user=user, now=timezone.now()).token


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    """Open one; whatever is still connected or running at the end is ended."""
    backends._cache.clear()
    live._slugs.clear()
    node = NodeRuntime()
    sessions = live.sessions_of(node)
    opened = House(node, sessions)
    await node.start()
    # As a server that was asked too early would answer "unavailable".
    await until(lambda: node.batcher.connected)
    try:
        yield opened
    finally:
        for client in opened.clients:
            if not client.task.done():
                await client.leaves()
        await opened.sessions.stop_all(hand_over=False, timeout_s=SOON_S)
        await node.stop()


async def waits(client: Client) -> dict[str, Any]:
    """Ask for a session and return the word of its place in the queue."""
    client.says({"type": "session.start"})
    queued: dict[str, Any] = await client.hears("session.queued")
    return queued


async def until(condition: Any) -> None:
    """Wait until a condition holds that nothing can be awaited for: another thread's state, a row."""
    async with asyncio.timeout(SOON_S):
        while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def make_tenant(slug: str = "acme", **quota: Any) -> Tenant:
    return await in_thread(world.make_tenant, slug, **quota)


async def make_backend(name: str = "loopback", **fields: Any) -> Backend:
    return await in_thread(world.make_backend, name, **fields)


async def record(session_id: Any) -> Session:
    return await in_thread(Session.objects.get, pk=session_id)


async def slots() -> int:
    return await in_thread(Slot.objects.count)


async def states(session_id: Any) -> list[str]:
    """The states that the session went through, in order."""
    return await in_thread(lambda: list(SessionEvent.objects.filter(session_id=session_id).order_by("id").values_list("new", flat=True)))


async def ends(session_id: Any) -> Session:
    """Wait until the session is over, and return its record."""

    async def over() -> bool:
        return (await record(session_id)).ended_at is not None

    await until(over)
    return await record(session_id)
