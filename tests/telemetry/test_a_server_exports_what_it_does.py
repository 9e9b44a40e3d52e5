"""Against real processes: a web server, a worker and beat, each exporting to a real receiver."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from sessions_app.models import Session
from tenants.models import Tenant
from tests import world
from tests.conftest import empty_database
from tests.e2e.client import Call
from tests.e2e.rows import new_token
from tests.e2e.server import Server, wait_until
from tests.platform.instance import PROJECT
from tests.telemetry.receiver import Received, Receiver
from voiceplatform import processes

pytestmark = pytest.mark.slow

QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
KNOWN = {
    "voice.session",
    "voice.admission",
    "voice.provider.open",
    "voice.session.active",
    "voice.provider.close",
    "voice.session.end",
    "voice.ledger.batch",
    "voice.session.move",
    "voice.session.resume",
    "voice.session.suspend",
}
LIFE = {"voice.session", "voice.admission", "voice.provider.open", "voice.session.active", "voice.provider.close", "voice.session.end"}
LOGIN = "/accounts/login/"
USER, NOTE = "user-4711", "metadata-4711"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as listening:
        yield listening


@pytest.fixture(scope="module")
def server(receiver: Receiver, django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with django_db_blocker.unblock():
        world.make_backend("loopback", options={"delay_ms": 0}, cap=None)
        running = Server(tmp_path_factory.mktemp("server"), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **QUICKLY)
        try:
            running.start()
            yield running
            running.stop()
            assert running.complaints() == []
        finally:
            running.end()
            empty_database()
            connection.close()


@pytest.fixture(scope="module")
def tenant(server: Server) -> Tenant:
    return world.make_tenant("acme")


@pytest.fixture
def dial(server: Server) -> Iterator[Callable[[str], Call]]:
    with ExitStack() as open_calls:

        def connect(token: str) -> Call:
            call = Call(server.socket_url, token)
            open_calls.callback(call.end)
            return call

        yield connect


def trace_of(receiver: Receiver, session_id: str) -> list[Received]:
    """All spans of a session's trace, once its end has come."""

    def found() -> list[Received]:
        roots = [each for each in receiver.named("voice.session") if each.attributes.get("session.id") == session_id]
        ids = {each.trace_id for each in roots}
        spans = [each for each in list(receiver.spans) if each.trace_id in ids]
        return spans if any(each.name == "voice.session.end" for each in spans) else []

    spans: list[Received] = receiver.wait(found, f"the trace of {session_id}")
    return spans


def talk(dial: Callable[[str], Call], token: str, *, rounds: int = 1) -> str:
    call = dial(token)
    session_id: str = call.start(metadata={"note": NOTE})["session_id"]
    audio = [bytes([number]) * 960 for number in range(50)]
    for _ in range(rounds):
        assert call.exchange(audio) == audio
    call.stop()
    return session_id


def test_an_http_request_is_a_span_with_its_statements_below(receiver: Receiver, server: Server) -> None:
    headers = {"Authorization": "Bearer a-bearer-4711", "Cookie": "sessionid=acookie4711"}
    assert server.request("GET", f"{LOGIN}?token=a-token-4711", headers=headers)[0] == 200
    page = receiver.wait(lambda: receiver.named("GET accounts/login/"), "the page's span")[0]
    assert page.kind == 2  # server
    assert page.attributes["http.route"] == "accounts/login/"
    assert page.attributes["http.response.status_code"] == 200
    assert page.attributes["url.path"] == LOGIN
    assert page.resource["service.name"] == "voiceplatform"
    assert page.resource["voice.process"] == "web"
    assert server.process is not None
    assert page.resource["service.instance.id"].endswith(f":{server.process.pid}")
    # Who came with a cookie is looked up.
    statement = receiver.wait(lambda: [each for each in receiver.spans if each.parent_id == page.span_id], "the statement")[0]
    assert statement.attributes["db.query.text"].startswith("SELECT")
    receiver.wait(lambda: "http.server.request.duration" in receiver.points, "the requests' durations")
    assert re.findall(rb"a-(?:token|bearer)-4711|acookie4711", receiver.everything()) == []


def test_machines_that_ask_for_health_make_no_spans(receiver: Receiver, server: Server) -> None:
    for _ in range(3):
        assert server.request("GET", "/readyz")[0] == 200
    before = len(receiver.named("GET accounts/login/"))
    server.request("GET", LOGIN)
    receiver.wait(lambda: len(receiver.named("GET accounts/login/")) > before, "the page's span")
    assert [each.name for each in receiver.spans if "readyz" in each.name or "healthz" in each.name] == []


def test_a_call_is_one_trace_and_its_batches_are_linked(receiver: Receiver, dial: Callable[[str], Call], tenant: Tenant) -> None:
    session_id = talk(dial, new_token(tenant, USER))
    spans = {each.name: each for each in trace_of(receiver, session_id) if each.name.startswith("voice.")}
    assert set(spans) == LIFE
    root = spans["voice.session"]
    assert {each.parent_id for name, each in spans.items() if name != "voice.session"} == {root.span_id}
    assert Session.objects.get(pk=UUID(session_id)).trace_id == root.trace_id
    admission = spans["voice.admission"]
    assert admission.attributes["outcome"] == "admitted"
    assert admission.attributes["limit"] == 10
    linked = [each for each in receiver.named("voice.ledger.batch") if admission.span_id in {link.span_id for link in each.links}]
    assert len(linked) == 1
    assert linked[0].attributes["admissions"] == 1
    # The end too was asked for in a step of the trace.
    assert any(link.span_id == spans["voice.session.end"].span_id for each in receiver.named("voice.ledger.batch") for link in each.links)


def test_a_frame_of_audio_makes_no_span(receiver: Receiver, dial: Callable[[str], Call], tenant: Tenant) -> None:
    session_id = talk(dial, new_token(tenant, USER), rounds=4)
    spans = trace_of(receiver, session_id)
    assert len(spans) < 30
    assert {each.name for each in receiver.spans if each.scope == "voiceplatform.sessions"} <= KNOWN
    assert [each.name for each in receiver.spans if "websocket" in each.name.lower() or "asgi" in each.scope] == []


def test_the_metrics_tell_of_the_calls(receiver: Receiver, dial: Callable[[str], Call], tenant: Tenant) -> None:
    held = dial(new_token(tenant))
    held.start()

    def value(metric: str, **attributes: str) -> float | None:
        point = receiver.latest(metric, **attributes)
        return None if point is None else point.value

    receiver.wait(lambda: value("voice.backend.active_sessions", backend="loopback") == 1, "the session in use")
    receiver.wait(lambda: value("voice.backend.health", backend="loopback") == 1, "the backend's health")
    held.stop()
    receiver.wait(lambda: value("voice.backend.active_sessions", backend="loopback") == 0, "the session's end in the gauge")
    receiver.wait(lambda: (value("voice.admission.attempts", outcome="admitted") or 0) >= 1, "the attempt")
    receiver.wait(lambda: (value("voice.session.duration", reason="completed") or 0) > 0, "the duration")


def test_a_refusal_is_in_the_trace_and_in_the_metrics(receiver: Receiver, server: Server, dial: Callable[[str], Call]) -> None:
    full = world.make_tenant("full", max_concurrent_sessions=0)
    call = dial(new_token(full))
    call.refused()

    def refused() -> list[Received]:
        return [each for each in receiver.named("voice.admission") if each.attributes.get("reason") == "session_limit_exceeded"]

    (span,) = receiver.wait(refused, "the refused admission")
    assert (span.error, span.status) == (True, "at capacity")
    assert span.attributes["active_sessions"] == 0
    receiver.wait(
        lambda: receiver.latest("voice.admission.attempts", outcome="rejected", reason="session_limit_exceeded"), "the refusal's count"
    )


def test_no_exported_byte_holds_a_credential_a_user_or_metadata(
    receiver: Receiver, server: Server, dial: Callable[[str], Call], tenant: Tenant
) -> None:
    good, spoiled = new_token(tenant, USER), new_token(tenant, USER)[:-4]
    session_id = talk(dial, good)
    dial(spoiled).message("session.rejected")
    server.request("GET", f"/nowhere/{good}", headers={"Authorization": f"Bearer {good}"})
    server.request("GET", f"{LOGIN}?token={good}")
    trace_of(receiver, session_id)
    receiver.wait(lambda: [each for each in receiver.spans if each.attributes.get("http.response.status_code") == 404], "the lost page")
    sent = receiver.everything()
    secrets = [good, spoiled, good.split(".")[1], good.split(".")[2], USER, NOTE, os.environ["SECRET_KEY"]]
    assert [text[:12] for text in secrets if text.encode() in sent] == []


def test_at_sigterm_what_waits_is_delivered(receiver: Receiver, server: Server, tmp_path: Path) -> None:
    other = Server(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_BSP_SCHEDULE_DELAY="600000")
    try:
        other.start()
        assert other.process is not None
        other.request("GET", LOGIN)
        instance = f":{other.process.pid}"
        other.stop()
        receiver.wait(
            lambda: [each for each in receiver.spans if str(each.resource["service.instance.id"]).endswith(instance)],
            "the span that waited",
        )
    finally:
        other.end()


@contextmanager
def celery(folder: Path, receiver: Receiver, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    environment = {
        **os.environ,
        **QUICKLY,
        "DATABASE_URL": world.database_url(),
        # A database of the store's own: workers of other tests take nothing of it.
        "VALKEY_URL": re.sub(r"/0(?=$|\?)", "/9", os.environ["VALKEY_URL"]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
    }
    log = folder / f"{words[0]}.log"
    with log.open("wb") as output:
        command = [sys.executable, "-W", "ignore::celery.platforms.SecurityWarning", "-m", "celery", "-q", "-A", "voiceplatform", *words]
        process = processes.spawn(command, environment=environment, folder=PROJECT, output=output)
    try:
        yield process, log
    finally:
        processes.end(process, (signal.SIGTERM, 20.0))


def test_a_task_is_one_trace_from_beat_to_the_worker_and_its_statements(receiver: Receiver, server: Server, tmp_path: Path) -> None:
    task = "sessions_app.tasks.sweep"
    with (
        celery(tmp_path, receiver, "worker", "--concurrency", "1", "--without-gossip", "--without-mingle") as (worker, worker_log),
        celery(tmp_path, receiver, "beat", "--scheduler", "celery.beat:Scheduler", "--pidfile=") as (beat, beat_log),
    ):

        def both() -> Any:
            runs = {each.trace_id: each for each in receiver.named(f"run/{task}")}
            asked = {each.trace_id: each for each in receiver.named(f"apply_async/{task}")}
            common = sorted(runs.keys() & asked.keys())
            return (asked[common[0]], runs[common[0]]) if common else None

        asked, run = receiver.wait(both, "a task's trace")
        assert (asked.resource["voice.process"], run.resource["voice.process"]) == ("beat", "worker")
        assert run.parent_id == asked.span_id
        # Of the process that did the work, not of the one that forked it.
        assert not run.resource["service.instance.id"].endswith(f":{worker.pid}")
        statements = [each for each in receiver.spans if each.parent_id == run.span_id]
        assert statements
        assert {each.scope for each in statements} == {"opentelemetry.instrumentation.psycopg"}
        assert all(each.attributes["db.query.text"] for each in statements)
        before = len(receiver.named(f"run/{task}"))
        wait_until(lambda: len(receiver.named(f"run/{task}")) > before, 20, "the next run")
    assert beat.returncode is not None
    for log in (worker_log, beat_log):
        text = log.read_text(encoding="utf-8")
        assert "Traceback" not in text
        assert '"level": "error"' not in text, text
