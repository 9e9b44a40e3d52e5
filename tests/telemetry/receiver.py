"""A real OTLP receiver over HTTP: it decodes what comes, and keeps every byte of it."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SOON_S = 20.0


@dataclass(frozen=True)
class Link:
    trace_id: str
    span_id: str


@dataclass(frozen=True)
class Received:
    """One span as it came, with the resource that sent it."""

    name: str
    scope: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    error: bool
    status: str
    attributes: dict[str, Any]
    links: list[Link]
    resource: dict[str, Any]
    start: int
    end: int


@dataclass(frozen=True)
class Point:
    """One measurement; of a histogram ``value`` is the sum and ``count`` how many there were."""

    value: float
    attributes: dict[str, Any]
    resource: dict[str, Any]
    at: int
    count: int = 0


@dataclass
class Receiver:
    """Listens while it is entered; with ``status`` it answers that instead of taking what comes."""

    port: int = 0
    status: int = 200
    raw: list[bytes] = field(default_factory=list)
    spans: list[Received] = field(default_factory=list)
    points: dict[str, list[Point]] = field(default_factory=dict)

    def __enter__(self) -> "Receiver":
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status == 200:
                    outer._take(self.path, body)
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._more = threading.Condition()
        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def named(self, name: str) -> list[Received]:
        return [each for each in list(self.spans) if each.name == name]

    def one(self, name: str) -> Received:
        found = self.named(name)
        assert len(found) == 1, f"{name}: {found}"
        return found[0]

    def latest(self, metric: str, **attributes: Any) -> Point | None:
        """The newest point of the series that has these attributes."""
        found = [each for each in list(self.points.get(metric, [])) if attributes.items() <= each.attributes.items()]
        return max(found, key=lambda each: each.at) if found else None

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Return the first value of the condition that is true, looking again whenever something came."""
        end = time.monotonic() + SOON_S
        with self._more:
            while not (value := condition()):
                left = end - time.monotonic()
                assert left > 0, f"{what} did not come; spans: {sorted({each.name for each in self.spans})}, metrics: {sorted(self.points)}"
                self._more.wait(left)
        return value

    def everything(self) -> bytes:
        return b"\n".join(self.raw)

    def _take(self, path: str, body: bytes) -> None:
        with self._more:
            self.raw.append(body)
            if path == "/v1/traces":
                self.spans += _spans(body)
            elif path == "/v1/metrics":
                for name, point in _points(body):
                    self.points.setdefault(name, []).append(point)
            self._more.notify_all()


def _spans(body: bytes) -> Iterable[Received]:
    request = ExportTraceServiceRequest.FromString(body)
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Received(
                    name=span.name,
                    scope=scope.scope.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=span.kind,
                    error=span.status.code == 2,
                    status=span.status.message,
                    attributes=_attributes(span.attributes),
                    links=[Link(each.trace_id.hex(), each.span_id.hex()) for each in span.links],
                    resource=resource,
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                )


def _points(body: bytes) -> Iterable[tuple[str, Point]]:
    request = ExportMetricsServiceRequest.FromString(body)
    for group in request.resource_metrics:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                assert kind is not None
                for point in getattr(metric, kind).data_points:
                    histogram = kind == "histogram"
                    number = point.sum if histogram else getattr(point, point.WhichOneof("value"))
                    yield (
                        metric.name,
                        Point(number, _attributes(point.attributes), resource, point.time_unix_nano, point.count if histogram else 0),
                    )


def _attributes(found: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in found}
