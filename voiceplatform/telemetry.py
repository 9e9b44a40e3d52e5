"""OpenTelemetry in this process: whether anything is exported, and what is instrumented. ``docs/telemetry.md`` tells how to switch it on.

Owns: ``start`` and ``stop``, called once in every kind of process that serves: web, and by Celery's signals each process of the worker and
beat; after the fork, since threads do not survive one. Management commands export nothing.
Refuses: to load the SDK, instrument or open anything unless the standard ``OTEL_*`` variables ask for it; and to instrument the WebSocket,
whose every frame would become a span: of the ASGI application only Django's half is.
Limits: OTLP over HTTP only. ``stop`` takes ``STOP_S`` at most, whatever the receiver does; what was not delivered by then is lost.
"""

import atexit
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from voiceplatform import env

if TYPE_CHECKING:
    from voiceplatform.telemetry_sdk import Pipeline

STOP_S: Final = 1.0
SERVICE: Final = "voiceplatform"
PROTOCOL: Final = "http/protobuf"
# Asked every few seconds by machines, or as many as a page has pictures.
_UNTRACED_URLS: Final = r"/readyz$,/healthz$,/static/"

_pipeline: "Pipeline | None" = None


def start(process: str) -> bool:
    """Export from this process, where the environment says so; before Django's handler is made. A second call does nothing.

    Args:
        process: Its kind: ``web``, ``worker`` or ``beat``.

    Returns:
        Whether anything is exported.

    Raises:
        ConfigurationError: a variable asks for what cannot be done.
    """
    global _pipeline  # noqa: PLW0603 - one per process
    traces, metrics = wanted("TRACES"), wanted("METRICS")
    if _pipeline is None and (traces or metrics):
        # The older conventions put paths, and with them whatever somebody asked for, into the attributes of metrics.
        os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http,database"
        from voiceplatform.telemetry_sdk import Pipeline

        _pipeline = Pipeline(process=process, instance=f"{socket.gethostname()}:{os.getpid()}", traces=traces, metrics=metrics)
        _pipeline.make_global()
        _pipeline.switch_on()
        _instrument(process)
        atexit.register(stop)
    return _pipeline is not None


def stop(**_: Any) -> None:
    """Deliver what is waiting, within ``STOP_S``, and export nothing after that."""
    global _pipeline
    pipeline, _pipeline = _pipeline, None
    if pipeline is not None:
        atexit.unregister(stop)
        pipeline.stop(timeout_s=STOP_S)


def wanted(signal: str) -> bool:
    """Return whether this signal (``TRACES``, ``METRICS``) is to be exported: its exporter is ``otlp``, or an endpoint is named.

    Raises:
        ConfigurationError: another exporter or protocol than there is.
    """
    exporter = env.text(f"OTEL_{signal}_EXPORTER").strip().lower()
    if exporter not in {"", "otlp", "none"}:
        raise env.ConfigurationError(f"OTEL_{signal}_EXPORTER must be otlp or none, not {exporter!r}.")
    named = env.text("OTEL_EXPORTER_OTLP_ENDPOINT") or env.text(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    if exporter == "none" or not (exporter or named) or env.flag("OTEL_SDK_DISABLED"):
        return False
    protocol = env.text(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or env.text("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOL)
    if protocol != PROTOCOL:
        raise env.ConfigurationError(f"The OTLP protocol must be {PROTOCOL}, not {protocol!r}.")
    return True


def _instrument(process: str) -> None:
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]
    PsycopgInstrumentor().instrument(enable_commenter=False, capture_parameters=False)
    if process == "web":
        from opentelemetry.instrumentation.django import DjangoInstrumentor

        excluded = None if env.text("OTEL_PYTHON_DJANGO_EXCLUDED_URLS") else _UNTRACED_URLS
        DjangoInstrumentor().instrument(excluded_urls=excluded)
