"""Fixtures that every test may use: a database that the ledger's own connections see."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.test.utils import setup_databases, teardown_databases

from sessions_app.services.connections import open_connection
from sessions_app.services.ledger import Ledger
from tests import world

# Lets the contract's assertions explain themselves, although it is not a test module.
pytest.register_assert_rewrite("tests.providers.contract")

# What migrations made and tests must not take away.
KEPT = ("django_migrations", "django_content_type", "auth_permission")


def empty_database() -> None:
    """Take every row away, as the guards allow only to those who mark their transaction; put the platform's row back."""
    with open_connection(name="test cleaner") as connection, world.ledger_mark(connection):
        rows = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL(%s)", (list(KEPT),)
        ).fetchall()
        connection.execute(f"TRUNCATE {', '.join(row[0] for row in rows)} RESTART IDENTITY CASCADE")
        connection.execute("INSERT INTO sessions_app_platform (id) VALUES (1)")


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_modify_db_settings: None, django_db_blocker: Any) -> Iterator[None]:
    """Make the database for every kind of test: pytest-django's own makes it only where a test has its ``django_db`` mark."""
    with django_db_blocker.unblock():
        made = setup_databases(verbosity=0, interactive=False)
    yield
    with django_db_blocker.unblock():
        teardown_databases(made, verbosity=0)


@pytest.fixture
def committed_db(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """A database whose rows are committed, so that other connections, threads and processes see them."""
    with django_db_blocker.unblock():
        yield
        empty_database()
        from django.db import connection

        connection.close()


@pytest.fixture
def ledger(committed_db: None) -> Iterator[Ledger]:
    with world.new_ledger() as ledger:
        yield ledger


@pytest.fixture
def sql(committed_db: None) -> Iterator[psycopg.Connection[Any]]:
    """A plain connection in autocommit, for what is done or looked at from outside."""
    with open_connection(name="test") as connection:
        yield connection
