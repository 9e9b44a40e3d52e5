"""Setting a quota from text: what is understood, what is refused, and that a refusal changes nothing."""

from collections.abc import Iterator

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models.signals import post_save

from tenants import extensions, services
from tenants.exceptions import InvalidQuota, TenantNotFound
from tenants.models import Quota, Tenant

pytestmark = pytest.mark.django_db


@pytest.fixture
def acme() -> Tenant:
    return services.create_tenant(slug="acme")


def test_several_fields_change_together(acme: Tenant) -> None:
    services.set_quota(slug="acme", values={"max_concurrent_sessions": "25", "priority": "9", "max_duration_s": " 0 "})
    quota = Quota.objects.get(tenant=acme)
    assert (quota.max_concurrent_sessions, quota.priority, quota.max_duration_s) == (25, 9, 0)


def test_an_empty_value_is_unlimited(acme: Tenant) -> None:
    services.set_quota(slug="acme", values={"max_concurrent_sessions": ""})
    assert Quota.objects.get(tenant=acme).max_concurrent_sessions is None


def test_one_wrong_value_changes_nothing(acme: Tenant) -> None:
    with pytest.raises(InvalidQuota):
        services.set_quota(slug="acme", values={"max_concurrent_sessions": "25", "weight": "0"})
    assert Quota.objects.get(tenant=acme).max_concurrent_sessions == 10


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_concurrent_sessions", "-1"),
        ("max_concurrent_sessions", "1.5"),
        ("max_concurrent_sessions", "ten"),
        ("max_concurrent_sessions", "1_000"),
        ("max_concurrent_sessions", "٣"),
        ("max_concurrent_sessions", "2147483648"),
        ("max_concurrent_sessions", "9" * 5000),
        ("priority", "10"),
        ("weight", "0"),
        ("grace_s", ""),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_allowed(acme: Tenant, field: str, value: str) -> None:
    with pytest.raises(InvalidQuota, match=rf"^{field} must be a whole number from \d+ to \d+(, or empty for unlimited)?, not '"):
        services.set_quota(slug="acme", values={field: value})


@pytest.mark.parametrize("field", ["max_sessions", "id", "tenant", "tenant_id"])
def test_an_unknown_field_is_answered_with_the_fields(acme: Tenant, field: str) -> None:
    with pytest.raises(InvalidQuota, match=f"no quota field '{field}'; the fields are max_concurrent_sessions, .*max_queue_wait_s"):
        services.set_quota(slug="acme", values={field: "1"})


def test_an_unknown_tenant_is_said_to_be_unknown() -> None:
    with pytest.raises(TenantNotFound, match="no tenant with the slug 'nobody'"):
        services.set_quota(slug="nobody", values={"weight": "2"})


@pytest.fixture
def at_most_100() -> Iterator[None]:
    def validate(quota: Quota) -> None:
        assert connection.in_atomic_block
        if quota.reserved > 100:
            raise ValidationError(f"No backend can reserve {quota.reserved} sessions for {quota.tenant.slug}.")

    extensions.register_quota_validator(validate)
    yield
    extensions.unregister_quota_validator(validate)


@pytest.mark.usefixtures("at_most_100")
def test_another_app_can_refuse_a_quota(acme: Tenant) -> None:
    with pytest.raises(InvalidQuota, match=r"^No backend can reserve 101 sessions for acme\.$"):
        services.set_quota(slug="acme", values={"reserved": "101"})
    services.set_quota(slug="acme", values={"reserved": "100"})
    assert Quota.objects.get(tenant=acme).reserved == 100


def test_other_apps_hear_of_a_change(acme: Tenant) -> None:
    heard: list[tuple[str, object]] = []

    def hear(sender: type[object], instance: object, **_: object) -> None:
        heard.append((sender.__name__, instance))

    post_save.connect(hear, sender=Quota)
    post_save.connect(hear, sender=Tenant)
    try:
        quota = services.set_quota(slug="acme", values={"weight": "2"})
        services.set_status(tenant=acme, status=Tenant.Status.SUSPENDED)
    finally:
        post_save.disconnect(hear, sender=Quota)
        post_save.disconnect(hear, sender=Tenant)
    assert heard == [("Quota", quota), ("Tenant", acme)]
