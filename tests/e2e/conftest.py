"""A server for each file of tests: its tests have tenants and backends of their own, so that they do not disturb each other.

Every file runs twice, through uvicorn and through daphne (``-k daphne`` picks one), with a database of its own each time. Tests in a
browser run through uvicorn alone, unless they are marked ``every_server``: what differs between servers is below what a page sees.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from sessions_app.models import Backend, BackendAccess
from tenants.models import Tenant
from tests import world
from tests.conftest import empty_database
from tests.e2e.client import Call
from tests.e2e.media import Media
from tests.e2e.rows import new_token
from tests.e2e.server import Server
from tests.e2e.visitor import PASSWORD, Visitor

_numbers = itertools.count(1)


SERVERS = ("uvicorn", "daphne")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_kind" in metafunc.fixturenames:
        once = metafunc.definition.get_closest_marker("browser") and not metafunc.definition.get_closest_marker("every_server")
        metafunc.parametrize("server_kind", SERVERS[:1] if once else SERVERS, scope="module")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e/" in item.nodeid:
            item.add_marker("slow")


@pytest.fixture(scope="module")
def shared_db(server_kind: str, django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """A database for one file and one kind of server, with the backend of those tenants that have none of their own."""
    with django_db_blocker.unblock():
        world.make_backend("loopback", options={"delay_ms": 0}, cap=None)
        yield
        empty_database()
        connection.close()


@pytest.fixture(scope="module")
def server(server_kind: str, shared_db: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs; what goes wrong in it fails the file."""
    running = Server(tmp_path_factory.mktemp("server"), server=server_kind)
    try:
        running.start()
        yield running
        assert running.stop() == 0
        assert running.complaints() == []
    finally:
        running.end()


@pytest.fixture(scope="module")
def media(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Media]:
    """A LiveKit server with the echo agent, known to the server as the backend ``livekit``."""
    running = Media(server, tmp_path_factory.mktemp("media"))
    yield running
    running.end()


@pytest.fixture
def dial(server: Server) -> Iterator[Callable[..., Call]]:
    """Connect to the server, with a good token of this tenant and user or with whatever else is given."""
    calls: list[Call] = []

    def connect(tenant: Tenant | None = None, user: str = "ann", *, token: str | None = None, query: str = "", **fields: Any) -> Call:
        if tenant is not None:
            token = new_token(tenant, user)
        calls.append(Call(server.socket_url + query, token, **fields))
        return calls[-1]

    yield connect
    for call in calls:
        call.end()


@pytest.fixture
def new_tenant(shared_db: None) -> Callable[..., Tenant]:
    """Make a tenant with this quota, and with a backend of its own where the backend's fields are given."""

    def make(*, slug: str = "", backend: dict[str, Any] | None = None, **quota: Any) -> Tenant:
        number = next(_numbers)
        tenant = world.make_tenant(slug or f"tenant-{number}", **quota)
        if backend is None:
            serving = Backend.objects.get(name="loopback")
        else:
            serving = world.make_backend(f"backend-{number}", **{"options": {"delay_ms": 0}, **backend})
        BackendAccess.objects.create(tenant=tenant, backend=serving)
        return tenant

    return make


@pytest.fixture
def admin(server: Server) -> Visitor:
    """An administrator, signed in."""
    name = f"admin-{next(_numbers)}"
    User.objects.create_superuser(username=name, password=PASSWORD)
    visitor = Visitor(server.origin)
    visitor.sign_in(name)
    return visitor
