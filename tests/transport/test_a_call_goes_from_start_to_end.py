"""The whole way of one call over the real parts, as a client sees it and as the history tells it."""

import asyncio

from sessions_app.runtime.database import in_thread
from tenants import services as tenant_services
from tests.calls import Closed, House, ends, make_backend, make_tenant, record, slots, states, until


async def test_audio_comes_back_and_stop_completes_the_session(home: House) -> None:
    tenant = await make_tenant()
    await make_backend(options={"delay_ms": 0})
    client = home.caller(tenant)
    started = await client.starts(metadata={"shop": "14"})
    assert client.subprotocol == "voice.v1"
    assert started["backend"] == "loopback"
    assert started["pipeline"] == "s2s"
    assert started["audio"] == {"encoding": "pcm_s16le", "sample_rate": 24000, "channels": 1, "frame_ms": 20}
    assert started["limits"] == {"max_duration_s": 3600, "idle_timeout_s": 60}
    live = await record(started["session_id"])
    assert (live.state, live.metadata) == ("active", {"shop": "14"})
    frames = [bytes([number]) * 960 for number in range(5)]
    for frame in frames:
        client.says(frame)
    assert [await client.hears(bytes) for _ in frames] == frames
    client.says({"type": "ping", "t": 7})
    assert (await client.hears("pong"))["t"] == 7
    client.says({"type": "session.stop"})
    ended = await client.hears("session.ended")
    # The slot is free when the client hears of the end: it may start the next session at once.
    assert await slots() == 0
    assert ended["reason"] == "completed"
    assert await client.hears() == Closed(1000)
    over = await record(started["session_id"])
    assert (over.state, over.reason) == ("ended", "completed")
    assert over.duration_ms is not None
    assert abs(over.duration_ms - ended["duration_ms"]) < 500
    assert await states(over.pk) == ["starting", "active", "ended"]
    await asyncio.wait_for(client.task, 5)


async def test_a_clients_close_with_1000_is_a_stop(home: House) -> None:
    tenant = await make_tenant()
    await make_backend()
    client = home.caller(tenant)
    started = await client.starts()
    await client.leaves(1000)
    over = await ends(started["session_id"])
    assert (over.state, over.reason) == ("ended", "completed")


async def test_one_over_the_quota_is_refused_with_used_and_limit(home: House) -> None:
    tenant = await make_tenant(max_concurrent_sessions=1)
    await make_backend()
    await home.caller(tenant).starts()
    second = home.caller(tenant, "bob")
    second.says({"type": "session.start"})
    refused = await second.hears("session.rejected")
    assert refused["code"] == "session_limit_exceeded"
    assert refused["retry_after_s"] == 5
    assert refused["limits"] == [{"scope": "tenant", "used": 1, "limit": 1}, {"scope": "user", "used": 0, "limit": None}]
    assert await second.hears() == Closed(4429)


async def test_a_full_backend_is_told_without_its_numbers(home: House) -> None:
    tenant = await make_tenant()
    await make_backend(cap=0)
    client = home.caller(tenant)
    client.says({"type": "session.start"})
    refused = await client.hears("session.rejected")
    assert refused["code"] == "backend_limit_exceeded"
    assert refused["limits"][0] == {"scope": "backend"}
    assert await client.hears() == Closed(4429)


async def test_a_suspended_tenant_is_refused(home: House) -> None:
    tenant = await make_tenant()
    await in_thread(tenant_services.set_status, tenant=tenant, status=tenant.Status.SUSPENDED)
    await make_backend()
    client = home.caller(tenant)
    client.says({"type": "session.start"})
    assert (await client.hears("session.rejected"))["code"] == "tenant_suspended"
    assert await client.hears() == Closed(4403)


async def test_a_session_ends_when_the_other_side_hangs_up(home: House) -> None:
    tenant = await make_tenant()
    await make_backend(options={"end_after_ms": 50})
    client = home.caller(tenant)
    started = await client.starts()
    assert (await client.hears("session.ended"))["reason"] == "provider_ended"
    assert await client.hears() == Closed(1000)
    assert (await record(started["session_id"])).state == "ended"


async def test_a_draining_node_takes_nobody(home: House) -> None:
    tenant = await make_tenant()
    await make_backend()
    client = home.caller(tenant)
    await until(lambda: client.accepted)
    home.node.draining = True
    client.says({"type": "session.start"})
    refused = await client.hears("session.rejected")
    assert (refused["code"], refused["retry_after_s"]) == ("node_draining", 1)
    assert await client.hears() == Closed(4012)
    late = home.caller(tenant)
    assert (await late.hears("session.rejected"))["code"] == "node_draining"
    assert await late.hears() == Closed(4012)
