"""The caps of user, backend and platform, set by commands while the server runs, and what a refused client may read of them."""

from collections.abc import Callable, Iterator

import pytest

from sessions_app.models import Session
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import backend_of
from tests.e2e.server import manage, wait_until


@pytest.fixture
def platform_cap(shared_db: None) -> Iterator[Callable[[str], str]]:
    """Set the platform's cap; it is taken away again, as it holds for every test of the file."""
    yield lambda value: manage("set_platform", f"max_concurrent_sessions={value}")
    manage("set_platform", "max_concurrent_sessions=")


def test_a_user_may_have_so_many(dial: Callable[..., Call], new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant()
    manage("set_quota", tenant.slug, "max_sessions_per_user=1")
    dial(tenant, "ann").start()
    refusal, code = dial(tenant, "ann").refused()
    assert (refusal["code"], code) == ("user_limit_exceeded", 4429)
    assert {"scope": "user", "used": 1, "limit": 1} in refusal["limits"]
    dial(tenant, "bob").start()
    manage("set_quota", tenant.slug, "max_sessions_per_user=2")
    dial(tenant, "ann").start()


def test_a_backend_may_have_so_many(dial: Callable[..., Call], new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(backend={})
    name = backend_of(tenant).name
    manage("set_backend", name, "cap=1")
    dial(tenant).start()
    refusal, code = dial(tenant).refused()
    assert (refusal["code"], code) == ("backend_limit_exceeded", 4429)
    # How others use it is not the end user's business.
    assert [each for each in refusal["limits"] if each["scope"] == "backend"] == [{"scope": "backend"}]
    manage("set_backend", name, "cap=2")
    dial(tenant).start()


def test_the_platform_may_have_so_many(
    platform_cap: Callable[[str], str], dial: Callable[..., Call], new_tenant: Callable[..., Tenant]
) -> None:
    wait_until(lambda: not Session.objects.filter(ended_at__isnull=True, state="active").exists(), 10, "an empty platform")
    first, second = new_tenant(), new_tenant()
    platform_cap("1")
    dial(first).start()
    refusal, code = dial(second).refused()
    assert (refusal["code"], code) == ("platform_limit_exceeded", 4429)
    assert [each for each in refusal["limits"] if each["scope"] == "platform"] == [{"scope": "platform"}]
    assert Session.objects.get(tenant=second).limits, "ops see the numbers in the history"
    platform_cap("2")
    dial(second).start()
