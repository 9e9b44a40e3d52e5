"""A tenant's quota over real sockets, and the admin form that changes it while the server runs."""

from collections.abc import Callable
from typing import Any

import pytest

from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import record, slots
from tests.e2e.server import manage
from tests.e2e.visitor import Visitor

LIMIT = 3


def test_one_over_the_quota_is_refused_until_the_quota_is_raised_in_the_admin_form(
    admin: Visitor, dial: Callable[..., Call], new_tenant: Callable[..., Tenant]
) -> None:
    tenant = new_tenant(max_concurrent_sessions=LIMIT)
    started = [dial(tenant, f"user-{number}").start() for number in range(LIMIT)]
    assert len({each["session_id"] for each in started}) == LIMIT

    refusal, code = dial(tenant, "late").refused()
    assert (refusal["code"], code) == ("session_limit_exceeded", 4429)
    assert {"scope": "tenant", "used": LIMIT, "limit": LIMIT} in refusal["limits"]
    assert refusal["message"]

    page = admin.submit(
        f"/admin/tenants/tenant/{tenant.pk}/change/", "tenant_form", {"quota-0-max_concurrent_sessions": str(LIMIT + 1), "_continue": "1"}
    )
    assert "was changed successfully" in page
    later = dial(tenant, "late").start()
    assert record(later["session_id"]).state == "active"

    refusal, _ = dial(tenant, "later").refused()
    assert {"scope": "tenant", "used": LIMIT + 1, "limit": LIMIT + 1} in refusal["limits"]
    manage("verify_capacity")


def test_a_place_that_is_given_back_is_free_when_the_caller_hears_of_the_end(
    dial: Callable[..., Call], new_tenant: Callable[..., Tenant]
) -> None:
    tenant = new_tenant(max_concurrent_sessions=1)
    for _ in range(5):
        call = dial(tenant)
        call.start()
        call.stop()
    assert slots(tenant) == 0


def test_a_quota_that_is_lowered_ends_nobody_and_admits_nobody(dial: Callable[..., Call], new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(max_concurrent_sessions=3)
    first, second = dial(tenant, "a"), dial(tenant, "b")
    first.start()
    second.start()
    manage("set_quota", tenant.slug, "max_concurrent_sessions=1")
    refusal, _ = dial(tenant, "c").refused()
    assert {"scope": "tenant", "used": 2, "limit": 1} in refusal["limits"]
    first.stop()
    assert dial(tenant, "c").refused()[0]["code"] == "session_limit_exceeded"
    second.stop()
    dial(tenant, "c").start()


@pytest.mark.parametrize(("value", "admitted"), [("0", False), ("", True)])
def test_zero_is_none_and_empty_is_unlimited(
    dial: Callable[..., Call], new_tenant: Callable[..., Tenant], value: str, admitted: bool
) -> None:
    tenant = new_tenant()
    manage("set_quota", tenant.slug, f"max_concurrent_sessions={value}")
    answer: Any = dial(tenant).start() if admitted else dial(tenant).refused()[0]
    assert answer["type"] == ("session.started" if admitted else "session.rejected")
