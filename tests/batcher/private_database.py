"""A PostgreSQL of one test's own, which it may kill; this process uses it meanwhile as its default database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dj_database_url
from django.core.management import call_command
from django.db import connection, connections

from voiceplatform.embedded import Postgres


@contextmanager
def private_database(folder: Path) -> Iterator[Postgres]:
    store = Postgres(folder)
    settings = connections.settings["default"]
    before = dict(settings)
    store.start()
    try:
        forget_connections()
        settings.update(dj_database_url.parse(store.url) | {"OPTIONS": before["OPTIONS"], "ENGINE": before["ENGINE"]})
        call_command("migrate", verbosity=0)
        yield store
    finally:
        forget_connections()
        settings.update(before)
        store.destroy()


def forget_connections() -> None:
    """Those of the pool would be to a server that is gone."""
    connection.close()
    connection.close_pool()  # type: ignore[attr-defined]  # of Django's PostgreSQL backend
