from typing import Any

import pytest
from django.db import IntegrityError
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from voiceplatform.telemetry_sdk import cleaned

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
KEY = "vk_live_0123456789abcdef"


def finished(**attributes: Any) -> ReadableSpan:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.raises(IntegrityError), provider.get_tracer("a.library").start_as_current_span(f"GET /x/{TOKEN}", attributes=attributes):
        raise IntegrityError("duplicate key: Key (email)=(ann@example.org) already exists")
    provider.shutdown()
    (span,) = exporter.get_finished_spans()
    return span


def test_attributes_that_hold_or_may_hold_a_credential_are_cut_redacted_or_left_out() -> None:
    span = cleaned(
        finished(
            **{
                "http.route": "talk/",
                "url.path": f"/nowhere/{TOKEN}/{KEY}",
                "url.query": f"token={TOKEN}",
                "http.url": "http://host/talk/?password=hunter2",
                "client.address": "203.0.113.9",
                "http.request.header.authorization": ["Bearer abc"],
                "http.request.header.sec_websocket_protocol": ["voice.v1", "token.abc"],
                "http.request.header.accept": ["text/html", KEY],
                "http.response.status_code": 200,
            }
        )
    )
    assert span.name == "GET /x/[redacted]"
    assert span.attributes == {
        "http.route": "talk/",
        "url.path": "/nowhere/[redacted]/[redacted]",
        "http.url": "http://host/talk/",
        "http.request.header.accept": ["text/html", "[redacted]"],
        "http.response.status_code": 200,
    }


def test_of_an_error_only_its_kind_is_told() -> None:
    span = cleaned(finished())
    (event,) = span.events
    assert dict(event.attributes or {}) == {"exception.type": "django.db.utils.IntegrityError", "exception.escaped": "False"}
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert "ann@example.org" not in span.to_json()
