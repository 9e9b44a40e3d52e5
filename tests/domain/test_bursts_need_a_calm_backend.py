import pytest
from hypothesis import given, settings

from sessions_app.domain.admission import Limit, admit, decide
from sessions_app.domain.states import Reason
from sessions_app.domain.world import Attempt, Scope, World
from tests.domain.worlds import attempt, attempts, copied, open_world, tenant, view, world


@settings(max_examples=50)
@given(open_world, attempts)
def test_who_is_above_the_limit_is_marked_and_on_a_backend_below_its_share(made: World, asked: list[Attempt]) -> None:
    for each in asked:
        before = copied(made)
        verdict = admit(made, each)
        if verdict.backend_id is None:
            assert not verdict.burst
            continue
        own, backend = before.tenants[each.tenant_id], before.backends[verdict.backend_id]
        assert verdict.burst == (own.limit is not None and own.used >= own.limit)
        if verdict.burst:
            assert own.limit is not None
            assert own.used < own.limit + own.burst
            assert backend.cap is None or backend.used / backend.cap < backend.burst_below


def test_bursts_go_on_until_the_stated_share_and_no_further() -> None:
    made = world([view(10, cap=10, burst_below=0.7)], [tenant(limit=2, burst=9)])
    verdicts = decide(made, [attempt()] * 9)
    assert [each.burst for each in verdicts] == [False] * 2 + [True] * 5 + [False] * 2
    assert verdicts[-1].reason is Reason.SESSION_LIMIT
    assert Limit(Scope.TENANT, 1, 2, burst=9) in verdicts[1].limits
    assert Limit(Scope.TENANT, 7, 2) in verdicts[-1].limits


def test_a_burst_ends_at_limit_and_burst_together() -> None:
    made = world([view(10, cap=None, burst_below=0.0)], [tenant(limit=1, burst=2)])
    assert [each.reason for each in decide(made, [attempt()] * 4)] == [None, None, None, Reason.SESSION_LIMIT]


def test_a_burst_takes_the_backend_that_allows_it() -> None:
    made = world(
        [view(10, used=9, cap=100, burst_below=0.05), view(11, used=5, cap=10, burst_below=0.6)], [tenant(1, (10, 11), limit=0, burst=5)]
    )
    assert [each.backend_id for each in decide(made, [attempt()] * 2)] == [11, None]


@pytest.mark.parametrize(("used", "burst"), [(6, True), (7, False)])
def test_seven_of_ten_is_not_below_seven_tenths(used: int, burst: bool) -> None:
    made = world([view(10, used=used, burst_below=0.7)], [tenant(limit=0, burst=1)])
    assert decide(made, [attempt()])[0].burst is burst
