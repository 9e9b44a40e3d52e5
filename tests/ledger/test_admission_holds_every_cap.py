from collections.abc import Callable
from typing import Any

import pytest

from sessions_app.domain.admission import Limit
from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Scope
from sessions_app.models import Platform, Session
from sessions_app.services.ledger import Ledger
from tests.world import admit, admitted, make_backend, make_tenant


def test_attempts_beyond_the_quota_are_refused_with_what_is_used_and_the_limit(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=2)
    results = [admitted(each) for each in ledger.apply([admit(tenant), admit(tenant), admit(tenant)])]
    assert [each.verdict.reason for each in results] == [None, None, Reason.SESSION_LIMIT]
    assert Limit(Scope.TENANT, 2, 2) in results[2].verdict.limits
    refused = Session.objects.get(pk=results[2].session_id)
    assert (refused.state, refused.reason) == (State.REJECTED, Reason.SESSION_LIMIT)
    assert {"scope": "tenant", "used": 2, "limit": 2} in refused.limits


def cap_platform() -> None:
    Platform.objects.update(max_concurrent_sessions=1)


@pytest.mark.parametrize(
    ("quota", "backend", "also", "reason"),
    [
        ({"max_sessions_per_user": 1}, {}, lambda: None, Reason.USER_LIMIT),
        ({}, {"cap": 1}, lambda: None, Reason.BACKEND_LIMIT),
        ({}, {}, cap_platform, Reason.PLATFORM_LIMIT),
        ({"max_concurrent_sessions": 1}, {}, lambda: None, Reason.SESSION_LIMIT),
    ],
)
def test_each_scope_refuses_with_its_own_reason_and_frees_at_the_end(
    ledger: Ledger, quota: dict[str, Any], backend: dict[str, Any], also: Callable[[], None], reason: Reason
) -> None:
    make_backend(**backend)
    tenant = make_tenant(**quota)
    also()
    first, second = (admitted(each) for each in ledger.apply([admit(tenant), admit(tenant)]))
    assert (first.verdict.reason, second.verdict.reason) == (None, reason)
    assert ledger.apply([End(first.session_id, Reason.COMPLETED)]) == [True]
    assert ledger.apply([End(first.session_id, Reason.COMPLETED)]) == [False]
    assert admitted(ledger.apply([admit(tenant)])[0]).verdict.admitted


def test_a_cap_that_is_set_while_sessions_live_counts_them(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant()
    ledger.apply([admit(tenant), admit(tenant)])
    Platform.objects.update(max_concurrent_sessions=2)
    assert admitted(ledger.apply([admit(tenant)])[0]).verdict.reason is Reason.PLATFORM_LIMIT


def test_zero_admits_none_and_empty_admits_all(ledger: Ledger) -> None:
    make_backend(cap=None)
    none, every = make_tenant("none", max_concurrent_sessions=0), make_tenant("all", max_concurrent_sessions=None)
    results = ledger.apply([admit(none), *(admit(every) for _ in range(20))])
    assert [admitted(each).verdict.admitted for each in results] == [False] + [True] * 20
