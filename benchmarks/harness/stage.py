"""The platform that is measured: durable PostgreSQL and Valkey in a temporary folder, migrated, with tenants and a backend.

Owns: the folder, the stores and this process's environment, which child processes inherit. Tenants, quotas and backends are made by the
product's own commands. Refuses: stores that the environment names, which may hold somebody's data.
Limits: one stage a process, since Django's settings are read once; enter it before anything of Django is imported, on the main thread.
"""

import io
import os
import resource
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psycopg
from cryptography.fernet import Fernet

from benchmarks.harness.errors import BenchmarkError
from voiceplatform.embedded import EmbeddedError, Postgres, Valkey

_WAL_FILES: Final = 60  # of 16 MiB: as much as there is between two checkpoints
PROJECT: Final = Path(__file__).resolve().parent.parent.parent


class Stage:
    """A migrated platform without a web server; a context manager.

    Attributes:
        folder: Temporary; logs may be written here.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self._postgres: Postgres | None = None
        self._valkey: Valkey | None = None

    def __enter__(self) -> Self:
        _raise_file_limit()
        self.folder = Path(tempfile.mkdtemp(prefix="voiceplatform-bench-"))
        self.folder.chmod(0o711)  # as root, PostgreSQL's own user passes through; what is secret in it has a mode of its own
        try:
            self._start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        from django.db import connections

        connections.close_all()
        for connection in connections.all(initialized_only=True):
            with suppress(AttributeError):
                connection.close_pool()  # type: ignore[attr-defined]  # PostgreSQL's has one
        self._remove()

    def tenant(self, slug: str, **quota: int | None) -> int:
        """Make a tenant with this quota (None: unlimited) and return its id."""
        from tenants.models import Tenant

        self.manage("create_tenant", slug)
        if quota:
            self.manage("set_quota", slug, *(f"{name}={'' if value is None else value}" for name, value in quota.items()))
        return Tenant.objects.get(slug=slug).pk

    def backend(self, name: str = "loopback", *, provider: str = "loopback", options: str = "{}", cap: int | None = None) -> None:
        """Make a backend that every tenant may use; ``options`` are JSON, a cap of None is unlimited."""
        self.manage("set_backend", name, f"provider={provider}", f"options={options}", f"cap={'' if cap is None else cap}")

    def manage(self, *words: str) -> str:
        """Run one of the product's commands in this process and return what it prints."""
        from django.core.management import call_command

        said = io.StringIO()
        call_command(words[0], *words[1:], stdout=said)
        return said.getvalue()

    def discrepancies(self) -> list[str]:
        """Return what ``verify_capacity`` finds, a sentence for each; none where all that is counted is there."""
        from sessions_app.selectors import verification

        return list(verification.discrepancies())

    def _start(self) -> None:
        self._postgres, self._valkey = Postgres(self.folder), Valkey(self.folder)
        try:
            self._postgres.start()
            self._valkey.start()
        except EmbeddedError as error:
            raise BenchmarkError(str(error)) from error
        os.environ.update(
            {
                "DJANGO_SETTINGS_MODULE": "voiceplatform.settings",
                "VOICE_DATA_DIR": str(self.folder),
                "DATABASE_URL": self._postgres.url,
                "VALKEY_URL": self._valkey.url,
                "SECRET_KEY": secrets.token_urlsafe(48),
                "VOICE_SECRET_KEYS": Fernet.generate_key().decode(),
            }
        )
        import django

        django.setup()
        self.manage("migrate", "--noinput", "--verbosity", "0")
        _age()

    def _remove(self) -> None:
        if self._valkey is not None:
            self._valkey.stop()
        if self._postgres is not None:
            self._postgres.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)


def _age() -> None:
    """Leave a write-ahead log as of a database that has been in use: its files are written again and again.

    In a new one each 16 MiB of it are a file to be made, for which everybody waits some 10 ms.
    """
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        for _ in range(_WAL_FILES):
            connection.execute("SELECT pg_logical_emit_message(false, 'benchmark', ''), pg_switch_wal()")
        connection.execute("CHECKPOINT")


def mint(tenant_id: int, user: str, **early: Any) -> str:
    """Return a connect token, as the HTTP API would give it to the tenant's server; for any process of a stage, without the database.

    Args:
        tenant_id: Whose it is.
        user: For whom.
        early: Arguments of ``timedelta``: how long ago it was issued.
    """
    from datetime import UTC, datetime, timedelta

    from sessions_app.services import tokens

    return tokens.issue_connect_token(tenant_id=tenant_id, user=user, now=datetime.now(UTC) - timedelta(**early)).token


def _raise_file_limit() -> None:
    """A thousand sockets are more than many systems allow a process at first; children inherit what is raised here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 20_000 if hard == resource.RLIM_INFINITY else min(hard, 20_000)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
