import os
from collections.abc import Iterator

import pytest

from tests.batcher.conftest import batcher
from tests.telemetry.receiver import Receiver
from voiceplatform.telemetry_sdk import Pipeline

__all__ = ["batcher"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine that runs the tests exports is its own business."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as listening:
        yield listening


@pytest.fixture
def pipeline(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    """This process exports to the receiver whenever the test says ``flush``, and stops with the test."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "600000")
    made = Pipeline(process="web", instance="here:1", traces=True, metrics=True)
    made.switch_on()
    yield made
    made.stop(timeout_s=10)
