"""What no form and no service checked, the database still refuses: every statement here is raw SQL."""

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection

from tenants import services
from tenants.models import Quota, Tenant

pytestmark = pytest.mark.django_db

TENANT = "INSERT INTO tenants_tenant (slug, name, status, created_at) VALUES (%s, %s, %s, now())"
KEY = "INSERT INTO tenants_apikey (tenant_id, name, prefix, hash, created_at) VALUES (%s, '', %s, %s, now())"


@pytest.fixture
def acme() -> Tenant:
    return services.create_tenant(slug="acme")


def execute(statement: str, *values: str | int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


@pytest.mark.parametrize("slug", ["", "Acme", "a b", "-acme", "_acme", "acme/", "äcme", "acme\n"])
def test_a_slug_of_another_form_is_refused(slug: str) -> None:
    with pytest.raises(IntegrityError, match="tenants_tenant_slug_format"):
        execute(TENANT, slug, "Acme", "active")


def test_a_tenant_without_a_name_is_refused() -> None:
    with pytest.raises(IntegrityError, match="tenants_tenant_name_given"):
        execute(TENANT, "acme", "", "active")


@pytest.mark.parametrize("status", ["", "Active", "deleted"])
def test_an_unknown_status_is_refused(status: str) -> None:
    with pytest.raises(IntegrityError, match="tenants_tenant_status_known"):
        execute(TENANT, "acme", "Acme", status)


def test_a_second_tenant_of_the_same_slug_is_refused(acme: Tenant) -> None:
    with pytest.raises(IntegrityError, match="unique"):
        execute(TENANT, acme.slug, "Acme", "active")


@pytest.mark.parametrize("field", list(services.quota_fields()))
def test_a_quota_below_zero_is_refused(acme: Tenant, field: str) -> None:
    with pytest.raises(IntegrityError, match="tenants_quota"):
        execute(f"UPDATE tenants_quota SET {field} = -1 WHERE tenant_id = %s", acme.pk)


@pytest.mark.parametrize("field", [each.name for each in services.quota_fields().values() if not each.nullable])
def test_a_field_that_cannot_be_unlimited_is_not_null(acme: Tenant, field: str) -> None:
    with pytest.raises(IntegrityError, match="not-null"):
        execute(f"UPDATE tenants_quota SET {field} = NULL WHERE tenant_id = %s", acme.pk)


@pytest.mark.parametrize(
    ("field", "value", "constraint"), [("priority", 10, "tenants_quota_priority_0_to_9"), ("weight", 0, "tenants_quota_weight_from_1")]
)
def test_priority_and_weight_stay_in_their_range(acme: Tenant, field: str, value: int, constraint: str) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        execute(f"UPDATE tenants_quota SET {field} = %s WHERE tenant_id = %s", value, acme.pk)


def test_a_second_quota_of_a_tenant_is_refused(acme: Tenant) -> None:
    with pytest.raises(IntegrityError, match="unique"):
        Quota.objects.bulk_create([Quota(tenant=acme)])


def test_a_second_membership_in_the_same_tenant_is_refused(acme: Tenant) -> None:
    user = User.objects.create(username="ann")
    services.add_member(tenant=acme, user=user)
    with pytest.raises(IntegrityError, match="tenants_membership_once"):
        execute("INSERT INTO tenants_membership (user_id, tenant_id) VALUES (%s, %s)", user.pk, acme.pk)


def test_an_api_key_kept_in_clear_is_refused(acme: Tenant) -> None:
    with pytest.raises(IntegrityError, match="tenants_apikey_hash_format"):
        execute(KEY, acme.pk, "0123456789ab", "vk_0123456789ab_secret")


def test_an_api_key_with_another_form_of_prefix_is_refused(acme: Tenant) -> None:
    with pytest.raises(IntegrityError, match="tenants_apikey_prefix_format"):
        execute(KEY, acme.pk, "abc", "0" * 64)


def test_two_api_keys_with_one_prefix_are_refused(acme: Tenant) -> None:
    execute(KEY, acme.pk, "0123456789ab", "0" * 64)
    with pytest.raises(IntegrityError, match="unique"):
        execute(KEY, acme.pk, "0123456789ab", "1" * 64)
