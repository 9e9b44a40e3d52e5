"""The defaults are promised to those who script against the platform."""

import pytest

from tenants import services
from tenants.exceptions import InvalidTenant, TenantExists
from tenants.models import Tenant

pytestmark = pytest.mark.django_db

DEFAULTS = {
    "max_concurrent_sessions": 10,
    "max_sessions_per_user": None,
    "sessions_per_minute": 600,
    "user_sessions_per_minute": None,
    "max_duration_s": 3600,
    "idle_timeout_s": 60,
    "grace_s": 12,
    "reserved": 0,
    "burst": 0,
    "priority": 0,
    "weight": 1,
    "max_queue_length": 0,
    "max_queue_wait_s": 60,
}


def test_a_new_tenant_is_active_and_has_every_default() -> None:
    tenant = services.create_tenant(slug="acme", name="Acme Ltd")
    quota = Tenant.objects.get(slug="acme").quota
    assert (tenant.name, tenant.suspended) == ("Acme Ltd", False)
    assert {name: getattr(quota, name) for name in services.quota_fields()} == DEFAULTS


def test_a_tenant_without_a_name_is_called_like_its_slug() -> None:
    assert services.create_tenant(slug="acme", name="  ").name == "acme"


def test_a_slug_that_is_taken_is_said_to_be_taken() -> None:
    services.create_tenant(slug="acme")
    with pytest.raises(TenantExists, match="'acme' already"):
        services.create_tenant(slug="acme")


@pytest.mark.parametrize(("slug", "name"), [("A b", ""), ("", ""), ("a" * 51, ""), ("acme", "n" * 101)])
def test_a_slug_or_name_that_is_not_allowed_leaves_nothing_behind(slug: str, name: str) -> None:
    with pytest.raises(InvalidTenant):
        services.create_tenant(slug=slug, name=name)
    assert not Tenant.objects.exists()


def test_suspending_twice_changes_it_once() -> None:
    tenant = services.create_tenant(slug="acme")
    assert services.set_status(tenant=tenant, status=Tenant.Status.SUSPENDED)
    assert not services.set_status(tenant=tenant, status=Tenant.Status.SUSPENDED)
    assert Tenant.objects.get(slug="acme").suspended
    assert services.set_status(tenant=tenant, status=Tenant.Status.ACTIVE)
