"""Connections of the ledger's own: apart from Django's pool, so that admission never waits for a page."""

from typing import Any, Final, TypeVar

import psycopg
from django.conf import settings
from django.db import connection as django_connection
from psycopg import Connection
from psycopg.abc import PQGen

# The server ends a statement after 3 s; one that says nothing for longer stands still, and cannot keep time any more.
PATIENCE_S: Final = 4.0

# Each statement is prepared once for each combination of types, and integers have the smallest type that they fit.
PREPARED_MAX: Final = 500

T = TypeVar("T")


class NoAnswer(psycopg.OperationalError):
    """The server did not answer in time; the connection is closed, and what was asked may have been done."""


class ImpatientConnection(Connection[Any]):
    """A connection that waits ``PATIENCE_S`` for each answer and no longer: for whoever others wait for."""

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for what ``gen`` waits for.

        Raises:
            NoAnswer: it did not come in time.
        """
        try:
            return super().wait(gen, interval=interval, timeout=PATIENCE_S if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()
            raise NoAnswer(f"no answer within {PATIENCE_S:g} s") from None


def open_connection(*, name: str, impatient: bool = False, prepare: bool = False) -> Connection[Any]:
    """Open a connection in autocommit to the default database.

    Args:
        name: What PostgreSQL shows as its application.
        impatient: See ``ImpatientConnection``.
        prepare: Whether its statements are the same again and again, so that they are worth to be prepared, where that is allowed.

    Raises:
        psycopg.OperationalError: the database cannot be reached.
    """
    parameters = dict(django_connection.get_connection_params())
    # What belongs to Django's own wrapper, not to the connection.
    for key in ("pool", "cursor_factory", "context", "server_side_binding", "assume_role", "isolation_level"):
        parameters.pop(key, None)
    parameters |= {"application_name": name, "autocommit": True}
    parameters["prepare_threshold"] = 0 if prepare and settings.VOICE_DB_PREPARE else None
    connection = (ImpatientConnection if impatient else Connection).connect(**parameters)
    connection.prepared_max = PREPARED_MAX
    return connection
