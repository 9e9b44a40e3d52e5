"""Signs of life of the processes that have no row of their own: the Celery worker and beat.

Owns: when each was last at work, by the database's clock. Each writes on a connection that it opens for that: the worker's main process
forks, and must hold neither a pool nor an open connection then.
"""

from typing import Final

from sessions_app.services.connections import open_connection

_SEEN: Final = """
INSERT INTO sessions_app_claim (name, holder, done_at) VALUES (%s, %s, clock_timestamp())
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, done_at = excluded.done_at"""


def seen(*, name: str, holder: str) -> None:
    """Write that ``name`` is at work now, in the process that ``holder`` names.

    Raises:
        psycopg.Error: the database is away.
    """
    with open_connection(name="voiceplatform seen") as own:
        own.execute(_SEEN, (name, holder[:100]))
