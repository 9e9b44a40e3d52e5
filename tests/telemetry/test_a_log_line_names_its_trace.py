import json
import logging

from sessions_app.runtime.telemetry import SessionTrace
from voiceplatform.logs import JsonFormatter, PlainFormatter
from voiceplatform.telemetry_sdk import Pipeline


def line(formatter: logging.Formatter) -> str:
    return formatter.format(
        logging.makeLogRecord({"msg": "backend could not be opened", "name": "a", "levelno": 30, "levelname": "WARNING"})
    )


def test_a_line_of_a_step_has_the_traces_id(pipeline: Pipeline) -> None:
    trace = SessionTrace.begin()
    with trace.step("voice.provider.open"):
        assert json.loads(line(JsonFormatter()))["trace_id"] == trace.id
        assert line(PlainFormatter()).endswith(f" trace_id={trace.id}")
    trace.close()
    assert "trace_id" not in json.loads(line(JsonFormatter()))


def test_without_export_no_line_has_one() -> None:
    trace = SessionTrace.begin()
    with trace.step("voice.provider.open"):
        assert "trace_id" not in json.loads(line(JsonFormatter()))
        assert "trace_id" not in line(PlainFormatter())
