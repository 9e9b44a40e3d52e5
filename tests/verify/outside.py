"""What somebody does who writes around the ledger: raw SQL, with the triggers off."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import psycopg
from django.core.management import call_command


@contextmanager
def from_outside(sql: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A transaction in which no trigger fires, neither guards nor records nor foreign keys."""
    with sql.transaction():
        sql.execute("SET LOCAL session_replication_role = replica")
        yield sql


def verify_history() -> tuple[int, list[str]]:
    """Return the exit code of ``verify_capacity --history`` and its lines."""
    out = StringIO()
    try:
        call_command("verify_capacity", "--history", stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue().splitlines()
    return 0, out.getvalue().splitlines()


def assert_clean() -> None:
    """Fail with the findings where there are any."""
    assert verify_history()[0] == 0, verify_history()[1]
