"""Spans and metrics of the sessions, through OpenTelemetry's API alone; ``docs/telemetry.md`` has the table of their names.

Owns: what a session's life looks like in a trace, and the counters of admissions and ends. Until ``switch_on`` everything here does next
to nothing. Refuses: the SDK, the database, and tokens, metadata, users and tenants as attributes; what an attribute may hold is bounded.
Limits: a span is exported when it ends, and sessions last for hours, so that none is open for as long as a session: the root ends when the
session has begun or was refused, and every later step is a short child of it.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import (
    CallbackOptions,
    Counter,
    Histogram,
    MeterProvider,
    NoOpMeterProvider,
    Observation,
)
from opentelemetry.trace import INVALID_SPAN, Link, NoOpTracerProvider, Span, SpanContext, Status, StatusCode, Tracer, TracerProvider

from sessions_app.domain.operations import Admitted
from sessions_app.domain.states import MEANINGS, Reason, State
from sessions_app.domain.world import Scope

SCOPE: Final = "voiceplatform.sessions"
BATCH: Final = "voice.ledger.batch"
MAX_LINKS: Final = 128  # of one batch; the SDK keeps no more either
_ADMISSION_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SESSION_S: Final = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)

Value = str | bool | int | float


@dataclass(frozen=True, slots=True)
class BackendNow:
    """One backend as it is observed: slots in use on it, and whether an admission would take it for healthy."""

    name: str
    active: int
    healthy: bool


@dataclass(frozen=True, slots=True)
class _Outlet:
    """Where spans and measurements go; ``observes``: the platform's gauges are exported."""

    tracer: Tracer
    attempts: Counter
    admission: Histogram
    duration: Histogram
    leaked: Counter
    drift: Counter
    webhooks: Counter
    traces: bool = False
    observes: bool = False


def _outlet_of(tracers: TracerProvider, meters: MeterProvider, *, traces: bool, observes: bool) -> _Outlet:
    meter = meters.get_meter(SCOPE)
    return _Outlet(
        tracer=tracers.get_tracer(SCOPE),
        attempts=meter.create_counter("voice.admission.attempts", "{attempt}", "Attempts to start a session, by outcome and reason."),
        admission=meter.create_histogram(
            "voice.admission.duration",
            "s",
            "From the attempt to its verdict.",
            explicit_bucket_boundaries_advisory=_ADMISSION_S,
        ),
        duration=meter.create_histogram(
            "voice.session.duration",
            "s",
            "How long sessions were active, by the reason of their end.",
            explicit_bucket_boundaries_advisory=_SESSION_S,
        ),
        leaked=meter.create_counter("voice.slot.leaked_seconds", "s", "Seconds that slots were held beyond the end of their leases."),
        drift=meter.create_counter("voice.drift", "{difference}", "What provider and platform did not agree on, by kind and backend."),
        webhooks=meter.create_counter("voice.webhooks", "{event}", "Webhooks that came in, by outcome and backend."),
        traces=traces,
        observes=observes,
    )


_OFF: Final = _outlet_of(NoOpTracerProvider(), NoOpMeterProvider(), traces=False, observes=False)
_outlet: _Outlet = _OFF
_observed: tuple[tuple[BackendNow, ...], float] = ((), 0.0)  # replaced as one: the gauges ask for it from a thread of their own


def switch_on(*, tracers: TracerProvider | None, meters: MeterProvider | None, platform_meters: MeterProvider | None) -> None:
    """Send spans and measurements there from now on; None: such are not exported.

    ``platform_meters`` is for what is observed of the whole platform by one process at a time: it carries no process's identity.
    """
    global _outlet  # noqa: PLW0603 - one per process
    _outlet = _outlet_of(
        tracers or NoOpTracerProvider(),
        meters or NoOpMeterProvider(),
        traces=tracers is not None,
        observes=platform_meters is not None,
    )
    if platform_meters is not None:
        meter = platform_meters.get_meter(SCOPE)
        meter.create_observable_gauge("voice.backend.active_sessions", [_active_sessions], "{session}", "Slots in use on a backend.")
        meter.create_observable_gauge("voice.backend.health", [_health], "1", "1 where a backend takes sessions as healthy, else 0.")


def switch_off() -> None:
    """Export nothing from now on."""
    global _outlet  # noqa: PLW0603
    _outlet = _OFF
    observed((), until=0.0)


# --- the platform as one process at a time observes it ----------------------------------------------------------------------
def observing() -> bool:
    """Whether anybody wants to know what ``observed`` tells."""
    return _outlet.observes


def observed(backends: Iterable[BackendNow], *, until: float) -> None:
    """Tell how the backends are; it holds until then (``time.monotonic``), since another process may observe after that."""
    global _observed  # noqa: PLW0603
    _observed = (tuple(backends), until)


def _now() -> tuple[BackendNow, ...]:
    backends, until = _observed
    return backends if time.monotonic() < until else ()


def _active_sessions(_: CallbackOptions) -> list[Observation]:
    return [Observation(each.active, {"backend": each.name}) for each in _now()]


def _health(_: CallbackOptions) -> list[Observation]:
    return [Observation(int(each.healthy), {"backend": each.name}) for each in _now()]


# --- counters -----------------------------------------------------------------------------------------------------------------
def leaked(seconds: float) -> None:
    """Count seconds that slots were held beyond the end of their leases."""
    if seconds > 0:
        _outlet.leaked.add(seconds)


def drifted(kind: str, backend: str) -> None:
    """Count something that a provider and the platform did not agree on: an orphan room, a ghost session and the like."""
    _outlet.drift.add(1, {"kind": kind, "backend": backend})


def webhook(outcome: str, backend: str) -> None:
    """Count a webhook that came in: ``stored``, ``repeated``, or why it was refused."""
    _outlet.webhooks.add(1, {"outcome": outcome, "backend": backend})


def ended(reason: Reason, active_s: float) -> None:
    """Count a session that is over, and was active for so many seconds."""
    _outlet.duration.record(max(active_s, 0.0), {"reason": reason.value})


def _count(outcome: str, reason: Reason | None) -> None:
    _outlet.attempts.add(1, {"outcome": outcome, "reason": reason.value if reason is not None else ""})


# --- the ledger's batches -------------------------------------------------------------------------------------------------------
def asking_span() -> SpanContext | None:
    """Return who asks here and now, for a batch to link to; None where it is not traced."""
    if not _outlet.traces:
        return None
    context = trace.get_current_span().get_span_context()
    return context if context.trace_flags.sampled else None


@contextmanager
def batch(*, operations: int, admissions: int, attempt: int, asked_by: Iterable[SpanContext | None]) -> Iterator[None]:
    """One transaction of the ledger, linked to the spans of those who asked for it; ``attempt`` counts its tries from 1."""
    if not _outlet.traces:
        yield
        return
    asking = {each.span_id: each for each in asked_by if each is not None}
    links = [Link(each) for each, _ in zip(asking.values(), range(MAX_LINKS), strict=False)]
    attributes: dict[str, Value] = {"operations": operations, "admissions": admissions, "attempt": attempt}
    with _span(BATCH, Context(), attributes, links):
        yield


@contextmanager
def _span(name: str, context: Context, attributes: dict[str, Value], links: list[Link] | None = None) -> Iterator[Span]:
    """A span that tells what kind of error it ended with, and never an error's text, which may quote what somebody sent."""
    span = _outlet.tracer.start_span(name, context, attributes=attributes, links=links)
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except asyncio.CancelledError:
            span.set_attribute("cancelled", True)
            raise
        except Exception as error:
            span.set_status(Status(StatusCode.ERROR, _kind(error)))
            raise


def _kind(error: Exception) -> str:
    """Return a provider's code, the reason of one of our own errors, or the name of the error's class."""
    kind = getattr(error, "code", None) or getattr(error, "reason", None)
    return kind if isinstance(kind, str) else type(error).__name__


# --- one session ------------------------------------------------------------------------------------------------------------------
class Admission:
    """One attempt while its verdict is awaited; exactly one of the methods says what became of it."""

    __slots__ = ("_asked_at", "_span", "told")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._asked_at = time.perf_counter()
        self.told = False

    def answered(self, answer: Admitted) -> None:
        """The ledger has answered: admitted, queued, rejected, or attached to a session that has its slot already."""
        verdict = answer.verdict
        for entry in verdict.limits if self._span.is_recording() else ():
            prefix = "" if entry.scope is Scope.TENANT else f"{entry.scope.value}."
            self._span.set_attribute(f"{prefix}active_sessions", entry.used)
            if entry.limit is not None:
                self._span.set_attribute(f"{prefix}limit", entry.limit)
        if answer.spent:
            self.refused(Reason.AUTHENTICATION_FAILED)
        elif answer.attached and answer.state is not State.STARTING:
            self._tell("attached", None)
        elif verdict.reason is None:
            # One that is starting may be attached to itself: its first answer was lost.
            self._tell("admitted", None)
        elif verdict.queued:
            self._tell("queued", verdict.reason)
        else:
            self.refused(verdict.reason)

    def refused(self, reason: Reason) -> None:
        """Nothing was decided, or not for the client: the store is away, or its credential is spent."""
        _blame(self._span, reason)
        self._tell("rejected", reason)

    def _tell(self, outcome: str, reason: Reason | None) -> None:
        self.told = True
        self._span.set_attribute("outcome", outcome)
        if reason is not None:
            self._span.set_attribute("reason", reason.value)
        _count(outcome, reason)
        _outlet.admission.record(time.perf_counter() - self._asked_at, {"outcome": outcome})


class SessionTrace:
    """The trace of one connection's session: a short root span ``voice.session``, and one child for each step of its life.

    Cheap where nothing is exported or this trace was not sampled: no spans are made then, only metrics are counted.

    Attributes:
        id: The trace's id, 32 hex digits; empty where it is not exported.
    """

    __slots__ = ("_context", "_recording", "_root", "id")

    def __init__(self, root: Span) -> None:
        self._root = root
        self._recording = root.is_recording()
        self._context = trace.set_span_in_context(root, Context())
        self.id = trace.format_trace_id(root.get_span_context().trace_id) if self._recording else ""

    @classmethod
    def begin(cls, *, transport: str = "websocket", resumed: bool = False) -> "SessionTrace":
        """Begin with the WebSocket; ``resumed``: its session began on another connection, and has a trace of its own there."""
        if not _outlet.traces:
            return UNTRACED
        attributes: dict[str, Value] = {"transport": transport, "resumed": resumed}
        return cls(_outlet.tracer.start_span("voice.session", Context(), kind=trace.SpanKind.SERVER, attributes=attributes))

    def about(self, session_id: UUID, **attributes: Value) -> None:
        """Say which session it is, and what else is known of it; what traces of one session have in common is its id."""
        if self._recording:
            self._root.set_attribute("session.id", str(session_id))
            self._root.set_attributes(attributes)

    @contextmanager
    def step(self, name: str, **attributes: Value) -> Iterator[Span]:
        """One step of the session's life as a span; what is asked of the ledger inside is linked to it."""
        if not self._recording:
            yield INVALID_SPAN
            return
        with _span(name, self._context, attributes) as span:
            yield span

    @contextmanager
    def admission(self) -> Iterator[Admission]:
        """The step in which the ledger decides; an error that leaves it counts as rejected for the error's reason."""
        with self.step("voice.admission") as span:
            asked = Admission(span)
            try:
                yield asked
            except Exception as error:
                if not asked.told:
                    reason = getattr(error, "reason", None)
                    asked.refused(reason if isinstance(reason, Reason) else Reason.UNAVAILABLE)
                raise

    @contextmanager
    def end(self, reason: Reason, *, active_s: float) -> Iterator[Span]:
        """The step in which the ledger is told of the end; the session was active for so many seconds."""
        with self.step("voice.session.end", reason=reason.value) as span:
            yield span
        # Not where the ledger could not be told: then it is somebody else who ends it.
        ended(reason, active_s)
        self.close()

    def refused(self, reason: Reason, *, attempt: bool = True) -> None:
        """It was turned away before an admission: no credential, a node that drains. ``attempt``: it counts as an attempt to start."""
        if self._recording:
            self._root.set_attributes({"outcome": "rejected", "reason": reason.value})
            _blame(self._root, reason)
        if attempt:
            _count("rejected", reason)
        self.close()

    def close(self) -> None:
        """End the root: the session is active, or the connection over. Later steps are its children all the same."""
        if self._recording and self._root.is_recording():
            self._root.end()


UNTRACED: Final = SessionTrace(INVALID_SPAN)


def _blame(span: Span, reason: Reason) -> None:
    """Mark a refusal that is the platform's doing as an error; one that is the client's is none."""
    http = MEANINGS[reason].http
    if http == 429:
        span.set_status(Status(StatusCode.ERROR, "at capacity"))
    elif reason is Reason.BACKEND_UNHEALTHY:
        span.set_status(Status(StatusCode.ERROR, "unhealthy"))
    elif http == 503:
        span.set_status(Status(StatusCode.ERROR, reason.value))
