"""OpenTelemetry's SDK as this platform uses it: providers, what is worth a span, and what may leave the process.

Owns: that no credential, query string, address of a client or text of an error is exported (an error's text may quote what somebody
sent, a database's even whole rows), and that a receiver that is away is told of once, in one line, without its address.
Limits: loaded only where something is exported. Queues are the SDK's, 2,048 spans at most; what a receiver does not take in time is lost,
and nothing waits for it but threads of the SDK.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import metric_exporter, trace_exporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, Status, TraceState
from opentelemetry.util.types import Attributes, AttributeValue

from sessions_app.runtime import telemetry as sessions
from voiceplatform import logs
from voiceplatform.telemetry import SERVICE

logger = logging.getLogger(__name__)

PLATFORM: Final = "platform"  # the identity of what is observed of all processes together, whichever observes it
# Who asked, and with what in the query, is nothing that a trace has to know.
_HIDDEN: Final = frozenset({"url.query", "client.address", "client.port", "network.peer.address", "network.peer.port"})
_URLS: Final = frozenset({"url.full", "url.path", "http.url", "http.target"})
_HEADERS: Final = ("http.request.header.", "http.response.header.")
_SECRET_HEADERS: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "sec-websocket-protocol", "x-csrftoken"}
)


class Pipeline:
    """The providers of one process, from spans and measurements to the receiver.

    Args:
        process: The process's kind.
        instance: Its name, as its node's.
        traces: Whether spans are exported.
        metrics: Whether metrics are.
    """

    def __init__(self, *, process: str, instance: str, traces: bool, metrics: bool) -> None:
        own = _resource({SERVICE_INSTANCE_ID: instance, "voice.process": process})
        self.tracers = _tracers(own) if traces else None
        self.meters = _meters(own) if metrics else None
        # A process may die and another observe in its place: were it to sign with its own name, both would be counted for a while.
        self.platform_meters = _meters(_resource({SERVICE_INSTANCE_ID: PLATFORM, "voice.process": PLATFORM})) if metrics else None
        # The SDK takes up to half a minute; in a thread that ends with the process it may. It is there from the beginning, since at the
        # end of an interpreter none can be started any more.
        self._stopping = threading.Event()
        self._closer = threading.Thread(target=self._close_when_told, name="telemetry stop", daemon=True)
        self._closer.start()

    def make_global(self) -> None:
        """Let libraries and the instrumentation use them; once a process."""
        if self.tracers is not None:
            trace.set_tracer_provider(self.tracers)
        if self.meters is not None:
            metrics.set_meter_provider(self.meters)

    def switch_on(self) -> None:
        """Let the sessions use them."""
        sessions.switch_on(tracers=self.tracers, meters=self.meters, platform_meters=self.platform_meters)

    def flush(self) -> None:
        """Deliver what is waiting, and wait for that."""
        for provider in self._providers():
            provider.force_flush()

    def stop(self, *, timeout_s: float) -> None:
        """Deliver what is waiting, for so many seconds at most, and end; later spans and measurements are ignored."""
        self._stopping.set()
        self._closer.join(timeout_s)
        sessions.switch_off()

    def _close_when_told(self) -> None:
        self._stopping.wait()
        for provider in self._providers():
            try:
                provider.shutdown()
            except Exception as error:  # noqa: BLE001 - on the way out; the SDK raises where a reader was late
                logger.debug("telemetry was not shut down in order: %s", type(error).__name__)

    def _providers(self) -> list[TracerProvider | MeterProvider]:
        return [each for each in (self.tracers, self.meters, self.platform_meters) if each is not None]


def _resource(attributes: Mapping[str, str]) -> Resource:
    found = Resource.create(dict(attributes))
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: SERVICE}))
    return found


def _tracers(resource: Resource) -> TracerProvider:
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.sampler = WorthASpan(provider.sampler)
    provider.add_span_processor(BatchSpanProcessor(_SpanExporter()))
    return provider


def _meters(resource: Resource) -> MeterProvider:
    return MeterProvider([PeriodicExportingMetricReader(_MetricExporter())], resource=resource, shutdown_on_exit=False)


class WorthASpan(Sampler):
    """Decides as the configured sampler does, with three exceptions.

    A database statement outside of any request, task or session (heartbeats, sweeps, several a second for ever) is no trace of its own.
    The statements of a ledger's batch are told by its own span: they are pipelined, so that theirs would say nothing.
    A batch is sampled with those who asked for it: else the link from a session that was sampled would lead nowhere.
    """

    def __init__(self, configured: Sampler) -> None:
        self._configured = configured

    def should_sample(  # noqa: PLR0917 - the SDK's
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide about one span."""
        if kind is SpanKind.CLIENT:
            parent = trace.get_current_span(parent_context)
            if not parent.get_span_context().is_valid or getattr(parent, "name", "") == sessions.BATCH:
                return SamplingResult(Decision.DROP)
        if name == sessions.BATCH and any(each.context.trace_flags.sampled for each in links or ()):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)
        return self._configured.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Return its name and that of the configured one."""
        return f"WorthASpan{{{self._configured.get_description()}}}"


class _Delivery(logging.Filter):
    """Tells once that the receiver is away, and once that it is back, in place of the exporter's own lines: those come with each try,
    and quote its address, in which there may be a key."""

    def __init__(self, signal: str, source: logging.Logger) -> None:
        super().__init__()
        self._signal = signal
        self._status: object = None
        self._away = False
        source.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the HTTP status, where there is one, and the line to itself."""
        if isinstance(record.args, tuple) and len(record.args) == 3:
            self._status = record.args[1]
        return False

    def went(self, *, well: bool) -> None:
        """Take note of one try."""
        if well == self._away:
            self._away = not well
            if well:
                logger.info("telemetry is delivered again", extra={"signal": self._signal})
            else:
                why = f"HTTP {self._status}" if isinstance(self._status, int) else "no answer"
                logger.warning("telemetry cannot be delivered: %s", why, extra={"signal": self._signal})


_traces: Final = _Delivery("traces", logging.getLogger(trace_exporter.__name__))
_metrics: Final = _Delivery("metrics", logging.getLogger(metric_exporter.__name__))


class _SpanExporter(OTLPSpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        # An empty statement is the pool's check of a connection.
        told = [cleaned(each) for each in spans if (each.attributes or {}).get("db.query.text") != ""]
        if not told:
            return SpanExportResult.SUCCESS
        result = super().export(told)
        _traces.went(well=result is SpanExportResult.SUCCESS)
        return result


class _MetricExporter(OTLPMetricExporter):
    def export(self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        _metrics.went(well=result is MetricExportResult.SUCCESS)
        return result


def cleaned(span: ReadableSpan) -> ReadableSpan:
    """Return the span as it may leave the process."""
    scope = span.instrumentation_scope
    ours = scope is not None and scope.name == sessions.SCOPE
    return ReadableSpan(
        name=logs.redact(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_attributes(span.attributes),
        events=[Event(each.name, _attributes(each.attributes), each.timestamp) for each in span.events],
        links=span.links,
        kind=span.kind,
        status=span.status if ours else Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=scope,
    )


def _attributes(attributes: Attributes) -> dict[str, AttributeValue]:
    return {name: _value(name, value) for name, value in (attributes or {}).items() if not _is_hidden(name)}


def _is_hidden(name: str) -> bool:
    if name in _HIDDEN or name in {"exception.message", "exception.stacktrace"}:
        return True
    return name.startswith(_HEADERS) and name.rpartition(".")[2].replace("_", "-") in _SECRET_HEADERS


def _value(name: str, value: AttributeValue) -> AttributeValue:
    if isinstance(value, str):
        return logs.redact(value.partition("?")[0] if name in _URLS else value)
    if isinstance(value, Sequence):
        return [logs.redact(each) if isinstance(each, str) else each for each in value]
    return value
