"""A node with its door, a livekit-server that tells it what happens, and a relay between the two that can lose, hold, double and reverse.

The relay stands where the web server would be: what it hands on goes through ``webhooks.receive``, signature and all.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiohttp import web

from sessions_app import tasks
from sessions_app.models import Backend, Claim, Drift, Room, WebhookEvent
from sessions_app.providers.base import RoomProvider
from sessions_app.runtime import backends, webhooks
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.webhooks import Received
from tenants.models import Quota, Tenant
from tests import calls, world
from tests.calls import Client, House
from tests.livekit.people import until
from tests.livekit_server import NewLiveKit
from voiceplatform import listening
from voiceplatform.embedded.livekit import LiveKit

Told = tuple[bytes, str]


@dataclass
class Relay:
    """Takes webhooks and hands them on.

    Attributes:
        lose: Refuse them: the server tries again, and then gives up.
        hold: Keep them until ``let_go``, having answered 200.
        copies: How often each is handed on.
        seen: All that came.
        held: What is kept.
        outcomes: What became of each that was handed on.
    """

    house: House | None = None
    lose: bool = False
    hold: bool = False
    copies: int = 1
    seen: list[Told] = field(default_factory=list)
    held: list[Told] = field(default_factory=list)
    outcomes: list[Received] = field(default_factory=list)
    url: str = ""

    async def take(self, request: web.Request) -> web.Response:
        told = (await request.read(), request.headers.get("Authorization", ""))
        self.seen.append(told)
        if self.lose:
            return web.Response(status=400)  # final at once, so that no test waits for the tries in between
        if self.hold:
            self.held.append(told)
        else:
            await self.hand_on(told)
        return web.Response()

    async def hand_on(self, told: Told) -> None:
        tell = self.house.node.rooms.came if self.house is not None else lambda _: None
        for _ in range(self.copies):
            outcome = await webhooks.receive(provider="livekit", backend="livekit", body=told[0], authorization=told[1], tell=tell)
            self.outcomes.append(outcome)

    async def let_go(self, *, backwards: bool = False) -> None:
        """Hand on what was kept."""
        self.hold, held, self.held = False, self.held, []
        for told in reversed(held) if backwards else held:
            await self.hand_on(told)


@asynccontextmanager
async def relay() -> AsyncIterator[Relay]:
    made = Relay()
    app = web.Application()
    app.router.add_post("/webhooks/livekit/livekit/", made.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = listening.listen("127.0.0.1", 0)
    await web.SockSite(runner, listener).start()
    made.url = f"http://127.0.0.1:{listener.getsockname()[1]}/webhooks/livekit/livekit/"
    try:
        yield made
    finally:
        await runner.cleanup()


@dataclass
class Scene:
    house: House
    relay: Relay
    server: LiveKit
    backend: Backend
    tenant: Tenant

    async def provider(self) -> RoomProvider:
        """The house's own."""
        return await backends.room_provider_for(self.backend.pk)

    async def options(self, **options: Any) -> None:
        """Change the backend's options from the next session on."""
        self.backend.options |= options
        await in_thread(self.backend.save)

    async def quota(self, **changes: Any) -> None:
        """Change the tenant's quota."""
        await in_thread(Quota.objects.filter(tenant=self.tenant).update, **changes)

    async def starts(self, user: str = "ann", *, house: House | None = None, **fields: Any) -> tuple[Client, dict[str, Any]]:
        """A client whose session has a room."""
        client = (house or self.house).caller(self.tenant, user)
        return client, await client.starts(transport="webrtc", **fields)

    async def reconcile(self) -> None:
        """As Celery does, whoever has done it lately."""
        await in_thread(Claim.objects.filter(name=f"reconcile:{self.backend.pk}").delete)
        assert await in_thread(tasks.reconcile) == 1

    async def rooms(self) -> list[str]:
        """The names of the rooms that the server has."""
        return [each.name for each in await (await self.provider()).list_rooms()]


@asynccontextmanager
async def scene(new_livekit: NewLiveKit, *, auto_create: bool = False, **options: Any) -> AsyncIterator[Scene]:
    webhooks.forget()
    async with relay() as between:
        server = await asyncio.to_thread(new_livekit, webhooks=[between.url], auto_create=auto_create)
        async with calls.house() as house:
            between.house = house
            try:
                backend = await in_thread(make_backend, server, **options)
                tenant = await calls.make_tenant(grace_s=3)
                yield Scene(house, between, server, backend, tenant)
            finally:
                await house.node.stop()
                await backends.aclose()


def make_backend(server: LiveKit, name: str = "livekit", **options: Any) -> Backend:
    backend = world.make_backend(
        name,
        options={"url": server.url, "agent_timeout_s": 0, **options},
        secrets={"api_key": server.key, "api_secret": server.secret},
        transports=["webrtc"],
    )
    backend.provider = "livekit"
    backend.save()
    return backend


async def state_is(session_id: str | UUID, *wanted: str) -> None:
    """Wait until the session is in one of these states."""

    async def so() -> bool:
        return (await calls.record(session_id)).state in wanted

    await until(so, f"{wanted} of {session_id}")


async def room_of(session_id: str | UUID) -> Room:
    return await in_thread(Room.objects.get, session_id=session_id)


async def closed(session_id: str | UUID) -> None:
    """Wait until the provider has removed the session's room."""

    async def so() -> bool:
        return (await room_of(session_id)).closed_at is not None

    await until(so, f"the removal of {session_id}'s room")


async def events() -> list[WebhookEvent]:
    return await in_thread(lambda: list(WebhookEvent.objects.order_by("id")))


async def all_processed() -> None:
    """Wait until every event that came has its verdict."""

    async def so() -> bool:
        return all(each.processed_at is not None and each.verdict for each in await events())

    await until(so, "the verdicts")


async def drift() -> list[tuple[str, str]]:
    return await in_thread(lambda: list(Drift.objects.order_by("id").values_list("kind", "room")))
