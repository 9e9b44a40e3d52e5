"""What the probes saw, written down. Whoever probes claims it first by a compare-and-set with an expiry; no lock is held meanwhile.

Owns: when a backend counts as unhealthy (``UNHEALTHY_AFTER`` failures in a row) and healthy again (one success).
"""

from dataclasses import dataclass
from typing import Final

from django.db import connection

from sessions_app.models import Backend

UNHEALTHY_AFTER: Final = 2

_DUE: Final = """
SELECT b.id FROM sessions_app_backend b LEFT JOIN sessions_app_backendhealth h ON h.backend_id = b.id
WHERE b.enabled AND (h.last_probe_at IS NULL OR h.last_probe_at < clock_timestamp() - make_interval(secs => %s)) ORDER BY b.id"""
_CLAIM: Final = """
INSERT INTO sessions_app_backendhealth AS h (backend_id, status, failures, error, claimed_until)
VALUES (%(id)s, 'unknown', 0, '', clock_timestamp() + make_interval(secs => %(claim)s))
ON CONFLICT (backend_id) DO UPDATE SET claimed_until = excluded.claimed_until
WHERE (h.claimed_until IS NULL OR h.claimed_until < clock_timestamp())
  AND (h.last_probe_at IS NULL OR h.last_probe_at < clock_timestamp() - make_interval(secs => %(age)s))
RETURNING backend_id"""
_RECORD: Final = """
UPDATE sessions_app_backendhealth SET last_probe_at = clock_timestamp(), claimed_until = NULL, latency_ms = %(latency)s, error = %(error)s,
    failures = CASE WHEN %(ok)s THEN 0 ELSE failures + 1 END,
    status = CASE WHEN %(ok)s THEN 'healthy' WHEN failures + 1 >= %(limit)s THEN 'unhealthy' ELSE status END
WHERE backend_id = %(id)s RETURNING status"""


@dataclass(frozen=True)
class Outcome:
    """What one probe saw: how long it took in milliseconds, or the sentence that says what went wrong."""

    latency_ms: float | None = None
    error: str = ""


def due(*, age_s: float) -> list[int]:
    """Return the ids of the enabled backends that nobody has probed for ``age_s`` seconds."""
    with connection.cursor() as cursor:
        cursor.execute(_DUE, (age_s,))
        return [row[0] for row in cursor.fetchall()]


def claim(*, backend_id: int, age_s: float, claim_s: float) -> bool:
    """Claim a probe for ``claim_s`` seconds; False where somebody else has it or has just done it."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"id": backend_id, "age": age_s, "claim": claim_s})
        return cursor.fetchone() is not None


def record(*, backend_id: int, outcome: Outcome) -> str:
    """Write what a probe saw and return the backend's status after it."""
    with connection.cursor() as cursor:
        cursor.execute(
            _RECORD,
            {
                "id": backend_id,
                "ok": not outcome.error,
                "latency": outcome.latency_ms,
                "error": outcome.error[:300],
                "limit": UNHEALTHY_AFTER,
            },
        )
        row = cursor.fetchone()
    return row[0] if row else ""


def backend_can_be_used(*, stale_s: float) -> bool:
    """Whether any backend could take a session now, apart from its cap."""
    return (
        Backend.objects.filter(enabled=True, draining=False, health__status="healthy")
        .extra(where=["last_probe_at > clock_timestamp() - make_interval(secs => %s)"], params=[stale_s])
        .exists()
    )
