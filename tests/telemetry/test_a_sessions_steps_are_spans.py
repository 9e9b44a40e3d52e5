import asyncio

import pytest

from sessions_app.domain.operations import Activate, End
from sessions_app.domain.states import Reason
from sessions_app.providers.exceptions import ConnectionFailed
from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.telemetry import MAX_LINKS, SessionTrace
from tests.telemetry.receiver import Receiver
from tests.world import NODE, admit, make_backend, make_tenant
from voiceplatform.telemetry_sdk import Pipeline

STEPS = ("voice.admission", "voice.provider.open", "voice.session.active", "voice.provider.close", "voice.session.end")


async def test_a_life_is_one_trace_with_a_short_span_for_each_step(
    batcher: Batcher,
    pipeline: Pipeline,
    receiver: Receiver,
) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant, max_concurrent_sessions=3)
    asking = admit(tenant)
    session_id = asking.attempt.session_id
    trace = SessionTrace.begin(transport="websocket")
    assert len(trace.id) == 32
    trace.about(session_id)
    with trace.admission() as asked:
        asked.answered(await batcher.submit(asking))
    with trace.step("voice.provider.open", backend="loopback"):
        await asyncio.sleep(0)
    with trace.step("voice.session.active"):
        assert await batcher.submit(Activate(session_id, NODE))
    trace.close()
    pipeline.flush()
    root = receiver.one("voice.session")  # before the session is over
    with trace.step("voice.provider.close"):
        await asyncio.sleep(0)
    with trace.end(Reason.COMPLETED, active_s=1.5):
        assert await batcher.submit(End(session_id, Reason.COMPLETED))
    pipeline.flush()

    assert root.trace_id == trace.id
    assert root.parent_id == ""
    assert root.attributes == {"transport": "websocket", "resumed": False, "session.id": str(session_id)}
    assert root.resource["service.name"] == "voiceplatform"
    assert root.resource["service.instance.id"] == "here:1"
    assert root.resource["voice.process"] == "web"
    steps = [receiver.one(name) for name in STEPS]
    assert {each.trace_id for each in steps} == {trace.id}
    assert {each.parent_id for each in steps} == {root.span_id}
    assert [each.start for each in steps] == sorted(each.start for each in steps)
    admission, opened, _, _, end = steps
    assert admission.attributes["outcome"] == "admitted"
    assert admission.attributes["active_sessions"] == 0
    assert admission.attributes["limit"] == 3
    assert admission.attributes["backend.limit"] == 100
    assert not admission.error
    assert opened.attributes == {"backend": "loopback"}
    assert end.attributes == {"reason": "completed"}


async def test_the_batch_that_decided_is_linked_to_those_who_asked(
    batcher: Batcher,
    pipeline: Pipeline,
    receiver: Receiver,
) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant, max_concurrent_sessions=1)

    async def ask(trace: SessionTrace) -> None:
        with trace.admission() as asked:
            asked.answered(await batcher.submit(admit(tenant)))
        trace.close()

    traces = [SessionTrace.begin() for _ in range(3)]
    await asyncio.gather(*(ask(each) for each in traces))
    pipeline.flush()
    admissions = {each.trace_id: each for each in receiver.named("voice.admission")}
    batches = receiver.named("voice.ledger.batch")
    assert set(admissions) == {each.id for each in traces}
    assert sum(each.attributes["admissions"] for each in batches) == 3
    assert {each.attributes["attempt"] for each in batches} == {1}
    linked = {(link.trace_id, link.span_id) for each in batches for link in each.links}
    assert linked == {(each.trace_id, each.span_id) for each in admissions.values()}
    assert all(each.parent_id == "" and each.trace_id not in admissions for each in batches)


async def test_a_refusal_at_capacity_is_an_error_that_says_so(batcher: Batcher, pipeline: Pipeline, receiver: Receiver) -> None:
    await in_thread(make_backend)
    full = await in_thread(make_tenant, max_concurrent_sessions=0)
    trace = SessionTrace.begin()
    with trace.admission() as asked:
        asked.answered(await batcher.submit(admit(full)))
    trace.close()
    pipeline.flush()
    refused = receiver.one("voice.admission")
    assert refused.attributes["outcome"] == "rejected"
    assert refused.attributes["reason"] == "session_limit_exceeded"
    assert (refused.attributes["active_sessions"], refused.attributes["limit"]) == (0, 0)
    assert (refused.error, refused.status) == (True, "at capacity")


async def test_a_refusal_without_a_healthy_backend_is_an_error_that_says_so(
    batcher: Batcher,
    pipeline: Pipeline,
    receiver: Receiver,
) -> None:
    await in_thread(make_backend, healthy=False)
    tenant = await in_thread(make_tenant)
    trace = SessionTrace.begin()
    with trace.admission() as asked:
        asked.answered(await batcher.submit(admit(tenant)))
    trace.close()
    pipeline.flush()
    refused = receiver.one("voice.admission")
    assert (refused.error, refused.status) == (True, "unhealthy")


async def test_a_step_that_fails_tells_the_kind_and_never_the_text(pipeline: Pipeline, receiver: Receiver) -> None:
    trace = SessionTrace.begin()
    for error in (ConnectionFailed("secret-4711"), ValueError("secret-4711")):
        with pytest.raises(type(error)), trace.step("voice.provider.open"):
            raise error
    with pytest.raises(asyncio.CancelledError), trace.step("voice.provider.close"):
        raise asyncio.CancelledError
    trace.close()
    pipeline.flush()
    assert [(each.error, each.status) for each in receiver.named("voice.provider.open")] == [
        (True, "connection_failed"),
        (True, "ValueError"),
    ]
    cancelled = receiver.one("voice.provider.close")
    assert not cancelled.error
    assert cancelled.attributes == {"cancelled": True}
    assert b"secret-4711" not in receiver.everything()


async def test_a_batch_of_a_crowd_has_a_bounded_number_of_links(
    batcher: Batcher,
    pipeline: Pipeline,
    receiver: Receiver,
) -> None:
    await in_thread(make_backend, cap=None)
    tenant = await in_thread(make_tenant, max_concurrent_sessions=None, sessions_per_minute=None)

    async def ask() -> None:
        trace = SessionTrace.begin()
        with trace.admission() as asked:
            asked.answered(await batcher.submit(admit(tenant)))
        trace.close()

    await asyncio.gather(*(ask() for _ in range(400)))
    pipeline.flush()
    batches = receiver.named("voice.ledger.batch")
    assert sum(each.attributes["operations"] for each in batches) == 400
    assert max(each.attributes["operations"] for each in batches) > MAX_LINKS
    assert max(len(each.links) for each in batches) == MAX_LINKS


async def test_where_a_tenth_is_sampled_the_batches_of_what_is_sampled_are_too(
    batcher: Batcher,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.2")
    pipeline = Pipeline(process="web", instance="here:1", traces=True, metrics=False)
    pipeline.switch_on()
    try:
        await in_thread(make_backend, cap=None)
        tenant = await in_thread(make_tenant, max_concurrent_sessions=None, sessions_per_minute=None)
        sampled: set[str] = set()
        for _ in range(100):
            trace = SessionTrace.begin()
            with trace.admission() as asked:
                asked.answered(await batcher.submit(admit(tenant)))
            trace.close()
            sampled |= {trace.id} - {""}
        pipeline.flush()
    finally:
        pipeline.stop(timeout_s=10)
    assert 0 < len(sampled) < 100
    assert {each.trace_id for each in receiver.named("voice.session")} == sampled
    assert {link.trace_id for each in receiver.named("voice.ledger.batch") for link in each.links} == sampled


async def test_without_export_a_trace_is_nothing_and_everything_works(batcher: Batcher) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    trace = SessionTrace.begin()
    assert trace.id == ""
    with trace.admission() as asked:
        answer = await batcher.submit(admit(tenant))
        asked.answered(answer)
    assert answer.verdict.admitted
    with trace.step("voice.provider.open", backend="loopback") as span:
        assert not span.is_recording()
    with trace.end(Reason.COMPLETED, active_s=1):
        assert await batcher.submit(End(answer.session_id, Reason.COMPLETED))
    trace.close()
