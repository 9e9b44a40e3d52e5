"""What makes room without ending a session (a recovery, an edit) lets in who waits: the nodes look for that once a second."""

from io import StringIO

import pytest
from django.core.management import call_command

from sessions_app.models import Backend
from sessions_app.runtime.database import in_thread
from sessions_app.services import health
from sessions_app.services.health import Outcome
from tests.calls import Client, House, make_backend, make_tenant, record, slots, states


@pytest.fixture
async def backend(home: House) -> Backend:
    return await make_backend(cap=1, options={"delay_ms": 0})


async def waits(client: Client) -> str:
    client.says({"type": "session.start"})
    session_id: str = (await client.hears("session.queued"))["session_id"]
    return session_id


async def command(*words: str) -> None:
    await in_thread(call_command, *words, stdout=StringIO())


async def probe(backend: Backend, *, error: str = "", times: int = 1) -> None:
    for _ in range(times):
        await in_thread(health.record, backend_id=backend.pk, outcome=Outcome(error=error))


async def test_after_a_backend_is_healthy_again(home: House, backend: Backend) -> None:
    tenant = await make_tenant(max_queue_length=10)
    talking, client = home.caller(tenant, "talking"), home.caller(tenant, "waiting")
    await talking.starts()
    session_id = await waits(client)
    await probe(backend, error="It does not answer.", times=health.UNHEALTHY_AFTER)
    talking.says({"type": "session.stop"})
    await talking.hears("session.ended")
    assert (await slots(), await states(session_id)) == (0, ["queued"])  # its end has let nobody in
    await probe(backend)
    assert (await client.hears("session.started"))["session_id"] == session_id


async def test_after_another_tenants_reservation_is_lowered(home: House, backend: Backend) -> None:
    tenant = await make_tenant(max_queue_length=10)
    await make_tenant("globex")
    await command("set_quota", "globex", "reserved=1")
    client = home.caller(tenant)
    session_id = await waits(client)
    await command("set_quota", "globex", "reserved=0")
    assert (await client.hears("session.started"))["session_id"] == session_id
    assert (await record(session_id)).backend_id == backend.pk


UNCAPPED = ("set_backend", "loopback", "cap=")


@pytest.mark.parametrize(
    ("before", "edit"),
    [
        ([], ("set_backend", "loopback", "cap=2")),
        ([], UNCAPPED),
        ([UNCAPPED, ("set_platform", "max_concurrent_sessions=1")], ("set_platform", "max_concurrent_sessions=2")),
        ([UNCAPPED, ("set_quota", "acme", "max_concurrent_sessions=1")], ("set_quota", "acme", "max_concurrent_sessions=2")),
    ],
    ids=["backend", "no cap any more", "platform", "tenant"],
)
async def test_after_a_cap_is_raised(home: House, backend: Backend, before: list[tuple[str, ...]], edit: tuple[str, ...]) -> None:
    tenant = await make_tenant(max_queue_length=10)
    for words in before:
        await command(*words)
    await home.caller(tenant, "talking").starts()
    client = home.caller(tenant, "waiting")
    session_id = await waits(client)
    await command(*edit)
    assert (await client.hears("session.started"))["session_id"] == session_id
    assert await slots() == 2
