"""Logs: one JSON object a line (or one readable line), with everything that looks like a secret taken out.

Owns: the form of a line and the redaction, which works on the finished text, so that a secret in an exception or in a
library's message is caught too. A line that is written while a traced step runs has the trace's id.
Refuses: audio and transcripts, which nobody may pass to a logger in the first place.
"""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry import trace

REDACTED: Final = "[redacted]"
_SECRETS: Final = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"  # a JWT: header, claims, signature
    r"|\bvk_[\w-]{8,}"  # an API key, see tenants.credentials
    r"|(?<=://)[^\s/:@]*:[^\s/@]+(?=@)"  # user:password in a URL
    r"|(?i:(?<=bearer )[\w.~+/-]{8,}=*)"
    r"|\bgAAAA[\w-]{40,}=*"  # a Fernet token
)
# Attributes that every LogRecord has: what is not among them came in `extra`.
# Django and Celery pass whole requests and messages there, which say nothing that the line does not.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message", "request", "data"}


def redact(text: str) -> str:
    """Return the text with tokens, keys and passwords replaced."""
    return _SECRETS.sub(REDACTED, text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD and not name.startswith("_")}


def _trace_id() -> dict[str, str]:
    """Return the id of the trace that this is written in; nothing where there is none, or it is not exported."""
    context = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.trace_flags.sampled else {}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, trace id, then the fields passed in ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_trace_id(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, default=str, ensure_ascii=False))


class PlainFormatter(logging.Formatter):
    """One line for people: time, level where it is not info, message, fields as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and an exception below it."""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        fields = "".join(f" {name}={value}" for name, value in (_trace_id() | _fields(record)).items())
        text = f"{clock}  {level}{record.getMessage()}{fields}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        return redact(text)


def is_error(record: logging.LogRecord) -> bool:
    """Whether a line of ``django.request`` is worth telling: an error, not an answer that a view gave on purpose."""
    return bool(record.exc_info)


def is_no_strangers_noise(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's is not one that any client can have written as often as it likes."""
    return not str(record.msg).startswith("Invalid UTF-8 sequence")


def configuration(*, level: str, plain: bool) -> dict[str, Any]:
    """Return the ``dictConfig`` for Django's LOGGING: everything goes to standard output, one handler, redacted."""
    quiet = {"level": "WARNING"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": f"{__name__}.{'PlainFormatter' if plain else 'JsonFormatter'}"}},
        "filters": {
            "errors": {"()": "django.utils.log.CallbackFilter", "callback": is_error},
            "noise": {"()": "django.utils.log.CallbackFilter", "callback": is_no_strangers_noise},
        },
        "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}},
        "root": {"handlers": ["out"], "level": level},
        "loggers": {
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.server": {"handlers": [], **quiet, "propagate": True},
            "django.request": {"level": "ERROR", "filters": ["errors"]},
            "uvicorn.access": {"handlers": [], **quiet, "propagate": True},
            "uvicorn.error": {"handlers": [], **quiet, "propagate": True, "filters": ["noise"]},
            "celery.app.trace": quiet,
            "celery.worker.strategy": quiet,
            "celery.beat": quiet,
            "daphne": quiet,
            "psycopg.pool": {"level": "ERROR"},  # who needed the connection tells
            "asyncio": quiet,
            "opentelemetry.sdk": {"level": "ERROR"},  # a full queue is told by what fills it: the receiver that is away
            "urllib3": quiet,
            "livekit": {
                "level": "CRITICAL"
            },  # the SDK takes every hang-up for an error, with addresses in it; who uses it says what failed
        },
    }
