"""The queue as a client lives it: its place, the slot that becomes free, the place kept while it is away."""

import asyncio
from typing import Any

from sessions_app.models import Waiter
from sessions_app.runtime.database import in_thread
from tenants.models import Quota
from tests.calls import Closed, House, ends, house, record, slots, states, until, waits

FRAME = bytes(960)


async def test_places_go_down_and_the_first_is_let_in(home: House, tenant_with_queue: Any) -> None:
    talking = home.caller(tenant_with_queue, "talking")
    await talking.starts()
    first, second = home.caller(tenant_with_queue, "first"), home.caller(tenant_with_queue, "second")
    queued = await waits(first)
    assert (queued["position"], queued["estimated_wait_s"]) == (1, None)
    assert 50 <= queued["expires_in_s"] <= 60
    assert (await waits(second))["position"] == 2
    talking.says({"type": "session.stop"})
    assert (await first.hears("session.started"))["session_id"] == queued["session_id"]
    assert (await second.hears("session.queued"))["position"] == 1
    first.says(FRAME)
    assert await first.hears(bytes) == FRAME
    assert await states(queued["session_id"]) == ["queued", "starting", "active"]
    assert await slots() == 1


async def test_a_raised_quota_lets_in_who_waits(home: House, tenant_with_queue: Any) -> None:
    await home.caller(tenant_with_queue, "talking").starts()
    client = home.caller(tenant_with_queue, "waiting")
    await waits(client)
    await in_thread(Quota.objects.filter(tenant=tenant_with_queue).update, max_concurrent_sessions=2)
    await client.hears("session.started")
    assert await slots() == 2


async def test_who_waited_too_long_is_told_so(home: House, tenant_with_queue: Any) -> None:
    await in_thread(Quota.objects.filter(tenant=tenant_with_queue).update, max_queue_wait_s=1)
    await home.caller(tenant_with_queue, "talking").starts()
    client = home.caller(tenant_with_queue, "waiting")
    session_id = (await waits(client))["session_id"]
    assert (await client.hears("session.rejected"))["code"] == "queue_timeout"
    assert await client.hears() == Closed(4408)
    over = await ends(session_id)
    assert (over.state, over.reason) == ("expired", "queue_timeout")


async def test_a_client_that_stops_waiting_abandons_its_place(home: House, tenant_with_queue: Any) -> None:
    await home.caller(tenant_with_queue, "talking").starts()
    client = home.caller(tenant_with_queue, "waiting")
    session_id = (await waits(client))["session_id"]
    client.says({"type": "session.stop"})
    assert (await client.hears("session.ended"))["reason"] == "completed"
    over = await ends(session_id)
    assert (over.state, over.reason) == ("abandoned", "completed")


async def test_who_is_away_too_long_has_left_the_queue(home: House, tenant_with_queue: Any) -> None:
    await in_thread(Quota.objects.filter(tenant=tenant_with_queue).update, grace_s=1)
    await home.caller(tenant_with_queue, "talking").starts()
    client = home.caller(tenant_with_queue, "waiting")
    session_id = (await waits(client))["session_id"]
    await client.leaves(1006)
    over = await ends(session_id)
    assert (over.state, over.reason) == ("abandoned", "client_lost")


async def test_the_place_is_kept_over_a_reconnect_to_another_node(home: House, tenant_with_queue: Any) -> None:
    talking = home.caller(tenant_with_queue, "talking")
    await talking.starts()
    first, second = home.caller(tenant_with_queue, "first"), home.caller(tenant_with_queue, "second")
    token = (await waits(first))["resume_token"]
    await waits(second)
    await first.leaves(1006)
    async with house() as elsewhere:
        back = elsewhere.connect(token)
        assert (await back.hears("session.queued"))["position"] == 1
        assert await in_thread(Waiter.objects.filter(absent_until=None).count) == 2
        talking.says({"type": "session.stop"})
        await back.hears("session.started")
        back.says(FRAME)
        assert await back.hears(bytes) == FRAME
        assert (await second.hears("session.queued"))["position"] == 1


async def test_a_node_that_goes_down_leaves_its_queue_to_the_others(home: House, tenant_with_queue: Any) -> None:
    async with house() as elsewhere:
        talking = elsewhere.caller(tenant_with_queue, "talking")
        await talking.starts()
        client = home.caller(tenant_with_queue, "waiting")
        token = (await waits(client))["resume_token"]
        await asyncio.wait_for(home.node.stop(), 10)
        assert await client.hears(Closed) == Closed(4012)
        back = elsewhere.connect(token)
        await back.hears("session.queued")
        talking.says({"type": "session.stop"})
        await back.hears("session.started")


async def test_a_promotion_by_another_node_reaches_who_waits_here(home: House, tenant_with_queue: Any) -> None:
    async with house() as elsewhere:
        talking = elsewhere.caller(tenant_with_queue, "talking")
        await talking.starts()
        client = home.caller(tenant_with_queue, "waiting")
        session_id = (await waits(client))["session_id"]
        talking.says({"type": "session.stop"})
        await client.hears("session.started")
        assert (await record(session_id)).node_id == home.node.id


async def test_the_wait_is_estimated_once_there_were_releases(home: House, tenant_with_queue: Any) -> None:
    for number in range(4):
        caller = home.caller(tenant_with_queue, f"earlier{number}")
        await caller.starts()
        caller.says({"type": "session.stop"})
        await caller.hears("session.ended")
    await home.caller(tenant_with_queue, "talking").starts()
    client = home.caller(tenant_with_queue, "waiting")
    estimate = (await waits(client))["estimated_wait_s"]
    assert estimate is not None
    assert 0 <= estimate <= 60
    await until(lambda: len(home.sessions) == 2)
