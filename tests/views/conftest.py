"""People in front of the pages."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tenants import services
from tenants.models import Tenant
from tests import world


def signed_in(name: str, *, is_staff: bool = False, is_superuser: bool = False) -> Client:
    client = Client()
    client.force_login(User.objects.create_user(name, is_staff=is_staff, is_superuser=is_superuser))
    return client


@pytest.fixture
def acme(committed_db: None) -> Tenant:
    return world.make_tenant("acme")


@pytest.fixture
def stranger(committed_db: None) -> Client:
    """Not signed in."""
    return Client()


@pytest.fixture
def outsider(committed_db: None) -> Client:
    """Signed in, in no tenant, not staff."""
    return signed_in("outsider")


@pytest.fixture
def member(acme: Tenant) -> Client:
    """Ann, of acme, not staff."""
    client = signed_in("ann")
    services.add_member(tenant=acme, user=User.objects.get(username="ann"))
    return client


@pytest.fixture
def staff(committed_db: None) -> Client:
    return signed_in("ops", is_staff=True)


@pytest.fixture
def admin(committed_db: None) -> Client:
    return signed_in("root", is_staff=True, is_superuser=True)


def text(client: Client, address: str, **query: str) -> str:
    response = client.get(address, query)
    assert response.status_code == 200, response.status_code
    return response.content.decode()
