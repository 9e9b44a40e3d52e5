import logging
import socket
import threading
from collections.abc import Iterator

import pytest

from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.telemetry import SessionTrace
from tests.platform.instance import free_port
from tests.telemetry.receiver import Receiver
from tests.world import admit, make_backend, make_tenant
from voiceplatform.telemetry_sdk import Pipeline

KEY = "a-key-in-the-address"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of the exporter's patience are of no use here."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")


def exporting_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={KEY}")
    pipeline = Pipeline(process="web", instance="here:1", traces=True, metrics=True)
    pipeline.switch_on()
    return pipeline


def said(caplog: pytest.LogCaptureFixture, sentence: str) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.getMessage().startswith(sentence)]


async def test_it_is_told_once_a_signal_and_once_more_when_it_is_back(
    batcher: Batcher, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant, max_concurrent_sessions=None, sessions_per_minute=None)
    port = free_port()
    pipeline = exporting_to(f"http://127.0.0.1:{port}", monkeypatch)
    try:
        for _ in range(30):
            with SessionTrace.begin().admission() as asked:
                answer = await batcher.submit(admit(tenant))
                asked.answered(answer)
            assert answer.verdict.admitted
        for _ in range(3):
            await in_thread(pipeline.flush)
        away = said(caplog, "telemetry cannot be delivered: no answer")
        assert sorted(getattr(each, "signal", "") for each in away) == ["metrics", "traces"]
        with Receiver(port) as receiver:
            trace = SessionTrace.begin()
            trace.close()
            await in_thread(receiver.wait, lambda: trace.id in {each.trace_id for each in receiver.spans}, "a span after its return")
            await in_thread(receiver.wait, lambda: receiver.points, "a metric after its return")
            await in_thread(pipeline.flush)
            assert len(said(caplog, "telemetry is delivered again")) == 2
            await in_thread(pipeline.stop, timeout_s=10)
    finally:
        await in_thread(pipeline.stop, timeout_s=1)
    assert KEY not in caplog.text
    assert "/v1/" not in caplog.text
    assert {each.name for each in caplog.records if each.name.startswith("opentelemetry")} == set()


async def test_one_that_refuses_is_told_with_its_status(
    quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver(status=401) as receiver:
        pipeline = exporting_to(receiver.endpoint, monkeypatch)
        try:
            SessionTrace.begin().close()
            await in_thread(pipeline.flush)
            assert len(said(caplog, "telemetry cannot be delivered: HTTP 401")) >= 1
            receiver.status = 200
            SessionTrace.begin().close()
            await in_thread(pipeline.flush)
        finally:
            await in_thread(pipeline.stop, timeout_s=10)
    assert KEY not in caplog.text


@pytest.fixture
def silent() -> Iterator[str]:
    """Somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def test_one_that_never_answers_holds_up_neither_admission_nor_the_stop(
    batcher: Batcher, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    before = set(threading.enumerate())
    pipeline = exporting_to(silent, monkeypatch)
    trace = SessionTrace.begin()
    with trace.admission() as asked:
        answer = await batcher.submit(admit(tenant))
        asked.answered(answer)
    trace.close()
    assert answer.verdict.admitted
    await in_thread(pipeline.stop, timeout_s=0.1)
    assert "telemetry stop" in {each.name for each in threading.enumerate()}, "it did not wait for the receiver"
    assert SessionTrace.begin().id == ""
    # Leave nothing of it to the next test.
    for thread in set(threading.enumerate()) - before:
        if thread.daemon and not thread.name.startswith("voice-db"):
            thread.join(30)
