"""What ledger tests are made of: tenants and backends in the database, attempts, and a ledger of their own."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import uuid_utils.compat
from django.db import connection as django_connection
from django.utils import timezone

from sessions_app.domain.operations import Admit, Admitted
from sessions_app.domain.world import Attempt
from sessions_app.models import Backend, BackendHealth
from sessions_app.services.connections import open_connection
from sessions_app.services.ledger import Ledger
from tenants import services as tenant_services
from tenants.models import Quota, Tenant

NODE = uuid.UUID(int=1)
_WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def make_tenant(slug: str = "acme", **quota: Any) -> Tenant:
    tenant = tenant_services.create_tenant(slug=slug, name=slug.title())
    if quota:
        Quota.objects.filter(tenant=tenant).update(**quota)
    return tenant


def make_backend(name: str = "loopback", *, healthy: bool = True, **fields: Any) -> Backend:
    backend = Backend.objects.create(name=name, **{"provider": "loopback", **fields})
    status = BackendHealth.Status.HEALTHY if healthy else BackendHealth.Status.UNHEALTHY
    BackendHealth.objects.update_or_create(backend=backend, defaults={"status": status, "last_probe_at": timezone.now()})
    return backend


def admit(tenant: Tenant, user: str = "ann", **fields: Any) -> Admit:
    node_id = fields.pop("node_id", NODE)
    return Admit(Attempt(fields.pop("session_id", None) or uuid_utils.compat.uuid7(), tenant.id, user, **fields), node_id)


def admitted(result: object) -> Admitted:
    assert isinstance(result, Admitted)
    return result


def database_url() -> str:
    """Return the address of this test process's database, for other processes."""
    return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{django_connection.settings_dict['NAME']}").geturl()


@contextmanager
def new_ledger() -> Iterator[Ledger]:
    with open_connection(name="test ledger") as connection:
        yield Ledger(connection)


@contextmanager
def ledger_mark(connection: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that the guards let through: for tests that break what the product keeps, from outside."""
    with connection.transaction():
        connection.execute("SELECT set_config('voice.ledger', 'on', true)")
        yield connection


def until_wait(sql: psycopg.Connection[Any], count: int) -> None:
    """Return when so many batches wait for a lock of the ledger."""
    for _ in range(1_000):
        if sql.execute(_WAITING).fetchall()[0][0] == count:
            return
        sql.execute("SELECT pg_sleep(0.002)")
    pytest.fail(f"{count} batches should wait for the lock")
