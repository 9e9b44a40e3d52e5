"""A longest wait that is edited acts on those who wait already, on whatever connection they have."""

from typing import Any

import pytest

from sessions_app.runtime.database import in_thread
from tenants.models import Quota
from tests.calls import Client, House, ends, make_backend, make_tenant, record


@pytest.fixture
async def tenant(home: House) -> Any:
    await make_backend(options={"delay_ms": 0})
    return await make_tenant(max_concurrent_sessions=1, max_queue_length=10)


async def waits(client: Client) -> dict[str, Any]:
    client.says({"type": "session.start"})
    queued: dict[str, Any] = await client.hears("session.queued")
    return queued


async def limit(tenant: Any, seconds: int | None) -> None:
    await in_thread(Quota.objects.filter(tenant=tenant).update, max_queue_wait_s=seconds)


async def test_raised_it_keeps_who_waits(home: House, tenant: Any) -> None:
    as_before = await make_tenant("globex", max_concurrent_sessions=0, max_queue_length=10)
    for each in (tenant, as_before):
        await limit(each, 3)
    await home.caller(tenant, "talking").starts()
    client, other = home.caller(tenant, "waiting"), home.caller(as_before, "waiting")
    queued = await waits(client)
    assert queued["expires_in_s"] <= 3
    await limit(tenant, 600)
    await waits(other)
    assert 500 < (await client.hears("session.queued"))["expires_in_s"] <= 600
    assert (await other.hears("session.rejected"))["code"] == "queue_timeout"  # who came later, and was given no more time
    assert (await record(queued["session_id"])).state == "queued"
    await limit(tenant, None)
    assert (await client.hears("session.queued"))["expires_in_s"] is None


async def test_lowered_it_ends_who_has_waited_for_so_long(home: House, tenant: Any) -> None:
    await limit(tenant, 600)
    await home.caller(tenant, "talking").starts()
    client = home.caller(tenant, "waiting")
    session_id = (await waits(client))["session_id"]
    await limit(tenant, 1)
    assert (await client.hears("session.rejected"))["code"] == "queue_timeout"
    over = await ends(session_id)
    assert (over.state, over.reason) == ("expired", "queue_timeout")
