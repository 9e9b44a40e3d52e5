"""Connections of the ledger's own: apart from Django's pool, so that admission never waits for a page."""

from typing import Any

import psycopg
from django.db import connection as django_connection
from psycopg import Connection


def open_connection(*, name: str) -> Connection[Any]:
    """Open a connection in autocommit to the default database; ``name`` is what PostgreSQL shows as its application.

    Raises:
        psycopg.OperationalError: the database cannot be reached.
    """
    parameters = dict(django_connection.get_connection_params())
    # What belongs to Django's own wrapper, not to the connection.
    for key in ("pool", "cursor_factory", "context", "server_side_binding", "assume_role", "isolation_level"):
        parameters.pop(key, None)
    parameters |= {"application_name": name, "autocommit": True, "prepare_threshold": None}
    return psycopg.connect(**parameters)
