"""The life of an API key."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tenants import credentials, services
from tenants.exceptions import InvalidApiKey
from tenants.models import ApiKey, Tenant
from voiceplatform.logs import REDACTED, redact

pytestmark = pytest.mark.django_db

NOON = datetime(2031, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def acme() -> Tenant:
    return services.create_tenant(slug="acme")


def test_a_key_opens_the_door_of_its_own_tenant(acme: Tenant) -> None:
    other = services.create_tenant(slug="other")
    first, second = services.issue_api_key(tenant=acme, name="web"), services.issue_api_key(tenant=other)
    assert first != second
    assert services.authenticate_api_key(first) == acme
    assert services.authenticate_api_key(second) == other


def test_nothing_in_the_table_is_the_key_or_its_secret(acme: Tenant) -> None:
    key = services.issue_api_key(tenant=acme)
    secret = key.removeprefix(f"vk_{credentials.prefix_of(key)}_")
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_jsonb(k)::text FROM tenants_apikey k")
        kept = cursor.fetchone()[0]
    assert len(secret) == 43
    assert secret not in kept
    assert key not in kept


@pytest.mark.parametrize("wrong", ["", "vk_", "vk_0123456789ab_" + "x" * 43, "Bearer x", "vk_é", "\x00"])
def test_what_is_no_key_is_refused_without_saying_it(acme: Tenant, wrong: str) -> None:
    with pytest.raises(InvalidApiKey, match=r"^The API key is not valid\.$"):
        services.authenticate_api_key(wrong)


def test_the_right_prefix_with_another_secret_is_refused(acme: Tenant) -> None:
    key = services.issue_api_key(tenant=acme)
    other = key[:-1] + ("A" if key[-1] != "A" else "B")
    for forged in (other, key + "A", key + "\n", key.upper()):
        with pytest.raises(InvalidApiKey):
            services.authenticate_api_key(forged)


def test_a_revoked_key_is_refused_and_stays_revoked(acme: Tenant) -> None:
    key = services.issue_api_key(tenant=acme)
    row = ApiKey.objects.get()
    assert services.revoke_api_key(key_id=row.pk)
    first = ApiKey.objects.get().revoked_at
    assert not services.revoke_api_key(key_id=row.pk)
    assert ApiKey.objects.get().revoked_at == first
    with pytest.raises(InvalidApiKey):
        services.authenticate_api_key(key)


def test_the_key_of_a_suspended_tenant_still_says_whose_it_is(acme: Tenant) -> None:
    key = services.issue_api_key(tenant=acme)
    services.set_status(tenant=acme, status=Tenant.Status.SUSPENDED)
    assert services.authenticate_api_key(key).suspended


def test_the_last_use_is_noted_at_most_once_a_minute(acme: Tenant) -> None:
    key = services.issue_api_key(tenant=acme)
    assert ApiKey.objects.get().last_used_at is None
    for seconds, noted in ((0, 0), (59, 0), (60, 60), (61, 60)):
        services.authenticate_api_key(key, now=NOON + timedelta(seconds=seconds))
        assert ApiKey.objects.get().last_used_at == NOON + timedelta(seconds=noted)


def test_a_busy_key_costs_one_query(acme: Tenant) -> None:
    key = services.issue_api_key(tenant=acme)
    services.authenticate_api_key(key, now=NOON)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        services.authenticate_api_key(key, now=NOON)
    assert len(queries) == 1


def test_a_wrong_key_is_not_noted_as_a_use(acme: Tenant) -> None:
    key = services.issue_api_key(tenant=acme)
    with pytest.raises(InvalidApiKey):
        services.authenticate_api_key(key[:-4] + "AAAA")
    assert ApiKey.objects.get().last_used_at is None


def test_the_log_would_hide_a_key(acme: Tenant) -> None:
    key = services.issue_api_key(tenant=acme)
    assert redact(f"key {key} used") == f"key {REDACTED} used"
