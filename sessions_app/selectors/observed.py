"""What the metrics tell of the backends: one cheap query, from the counters, without options or secrets of a backend."""

from typing import Final

from django.conf import settings
from django.db import connection

MOST_BACKENDS: Final = 1000  # a bound on the metrics' series

_BACKENDS: Final = """
SELECT b.name, coalesce(c.active, 0),
       coalesce(h.status = 'healthy' AND h.last_probe_at > clock_timestamp() - make_interval(secs => %s), false)
FROM sessions_app_backend b
LEFT JOIN sessions_app_capacity c ON c.scope = 'backend' AND c.ref = b.id
LEFT JOIN sessions_app_backendhealth h ON h.backend_id = b.id
WHERE b.enabled OR c.active > 0 ORDER BY b.name LIMIT %s"""


def backends() -> list[tuple[str, int, bool]]:
    """Return name, slots in use and health, as an admission takes it now, of every backend that is enabled or in use."""
    with connection.cursor() as cursor:
        cursor.execute(_BACKENDS, (settings.VOICE_PROBE_STALE_S, MOST_BACKENDS))
        return [(row[0], row[1], row[2]) for row in cursor.fetchall()]
