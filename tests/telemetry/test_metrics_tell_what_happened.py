import pytest

from sessions_app.domain.states import Reason
from sessions_app.runtime import telemetry
from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.telemetry import SessionTrace
from sessions_app.services.exceptions import Unavailable
from tests.telemetry.receiver import Point, Receiver
from tests.world import admit, make_backend, make_tenant
from voiceplatform.telemetry_sdk import Pipeline


def value(receiver: Receiver, metric: str, **attributes: object) -> float:
    point = receiver.latest(metric, **attributes)
    assert point is not None, f"{metric} {attributes}: {receiver.points.get(metric)}"
    return point.value


async def test_attempts_are_counted_by_outcome_and_reason_and_their_verdicts_timed(
    batcher: Batcher, pipeline: Pipeline, receiver: Receiver
) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant, max_concurrent_sessions=2)
    for _ in range(5):
        with SessionTrace.begin().admission() as asked:
            asked.answered(await batcher.submit(admit(tenant)))
    with pytest.raises(Unavailable), SessionTrace.begin().admission():
        raise Unavailable
    SessionTrace.begin().refused(Reason.AUTHENTICATION_FAILED)
    pipeline.flush()
    attempts = "voice.admission.attempts"
    assert value(receiver, attempts, outcome="admitted", reason="") == 2
    assert value(receiver, attempts, outcome="rejected", reason="session_limit_exceeded") == 3
    assert value(receiver, attempts, outcome="rejected", reason="unavailable") == 1
    assert value(receiver, attempts, outcome="rejected", reason="authentication_failed") == 1
    timed = receiver.latest("voice.admission.duration", outcome="admitted")
    assert timed is not None
    assert timed.count == 2
    assert 0 < timed.value < 60  # seconds
    refused = receiver.latest("voice.admission.duration", outcome="rejected")
    assert refused is not None
    assert refused.count == 4  # nobody asked the ledger for the one without a credential


async def test_ends_are_counted_by_reason_with_how_long_they_were_active(pipeline: Pipeline, receiver: Receiver) -> None:
    for reason, seconds in ((Reason.COMPLETED, 90.0), (Reason.COMPLETED, 10.0), (Reason.NODE_LOST, 3.0), (Reason.CONNECTION_FAILED, -0.5)):
        with SessionTrace.begin().end(reason, active_s=seconds):
            pass
    pipeline.flush()
    found = {reason: receiver.latest("voice.session.duration", reason=reason) for reason in ("completed", "node_lost", "connection_failed")}
    assert {reason: (point.count, point.value) for reason, point in found.items() if isinstance(point, Point)} == {
        "completed": (2, 100.0),
        "node_lost": (1, 3.0),
        "connection_failed": (1, 0.0),
    }


async def test_leaked_seconds_add_up(pipeline: Pipeline, receiver: Receiver) -> None:
    for seconds in (0.0, 1.5, 2.0, -3.0):
        telemetry.leaked(seconds)
    pipeline.flush()
    assert value(receiver, "voice.slot.leaked_seconds") == 3.5


async def test_no_series_names_a_tenant_a_user_or_a_session(batcher: Batcher, pipeline: Pipeline, receiver: Receiver) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant, "a-tenant-of-ours")
    trace = SessionTrace.begin()
    with trace.admission() as asked:
        asked.answered(await batcher.submit(admit(tenant, "a-user-of-theirs")))
    with trace.end(Reason.COMPLETED, active_s=1):
        pass
    pipeline.flush()
    names = {name for points in receiver.points.values() for point in points for name in point.attributes}
    assert names == {"outcome", "reason"}
