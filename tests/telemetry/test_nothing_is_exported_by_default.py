import os
import subprocess
import sys
from pathlib import Path

import pytest

from voiceplatform import telemetry
from voiceplatform.env import ConfigurationError

PROJECT = Path(__file__).resolve().parent.parent.parent
LOOK = """
import sys, threading
from voiceplatform import telemetry
started = telemetry.start("web")
from django.core.asgi import get_asgi_application
get_asgi_application()
from sessions_app.runtime.telemetry import SessionTrace, observing
heavy = [name for name in ("opentelemetry.sdk", "requests", "google.protobuf", "opentelemetry.instrumentation") if name in sys.modules]
print(started, heavy, observing(), repr(SessionTrace.begin().id), threading.active_count())
"""


def look(**variables: str) -> tuple[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment |= {"DJANGO_SETTINGS_MODULE": "voiceplatform.settings", **variables}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
    ],
    ids=["unset", "disabled", "none"],
)
def test_nothing_is_loaded_started_or_said(variables: dict[str, str]) -> None:
    assert look(**variables) == ("False [] False '' 1", "")


@pytest.mark.parametrize(
    ("variables", "traces", "metrics"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}, False, True),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, False, True),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False, False),
        ({"OTEL_SERVICE_NAME": "mine"}, False, False),
    ],
)
def test_each_signal_is_switched_on_by_the_standard_variables(
    variables: dict[str, str], traces: bool, metrics: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (telemetry.wanted("TRACES"), telemetry.wanted("METRICS")) == (traces, metrics)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("OTEL_TRACES_EXPORTER", "jaeger", "OTEL_TRACES_EXPORTER must be otlp or none, not 'jaeger'."),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "The OTLP protocol must be http/protobuf, not 'grpc'."),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=sentence.replace(".", r"\.")):
        telemetry.wanted("TRACES")
