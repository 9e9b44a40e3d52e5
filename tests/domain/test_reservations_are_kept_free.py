"""What one tenant has reserved and does not use, no other tenant gets; and a reservation does nothing else."""

from hypothesis import given, settings
from hypothesis import strategies as st

from sessions_app.domain.admission import Limit, choose_other_backend, decide
from sessions_app.domain.queueing import Waiter, promote
from sessions_app.domain.reservations import Reservations
from sessions_app.domain.states import Reason
from sessions_app.domain.world import Attempt, Scope, World
from tests.domain.worlds import TENANTS, attempt, attempts, copied, open_world, queues, tenant, view, world


@settings(max_examples=50)
@given(open_world, queues, attempts)
def test_what_others_reserved_stays_free_when_somebody_gets_a_slot(made: World, waiting: list[Waiter], asked: list[Attempt]) -> None:
    before = copied(made)
    promoted = promote(made, waiting)
    taken = {(each.waiter.attempt.tenant_id, each.verdict.backend_id) for each in promoted}
    taken |= {(each.tenant_id, verdict.backend_id) for each, verdict in zip(asked, decide(made, asked), strict=True) if verdict.admitted}
    for key, backend in made.backends.items():
        for tenant_id in TENANTS:
            if (tenant_id, key) in taken and backend.cap is not None:
                # Others may have used some of their own since; what they have left is still there.
                assert backend.used + backend.reservations.kept_from(tenant_id) <= backend.cap
        assert backend.reservations.unused <= before.backends[key].reservations.unused


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=4), st.integers(0, 3), st.data())
def test_the_running_sum_is_the_sum(rows: list[tuple[int, int]], others: int, data: st.DataObject) -> None:
    kept = Reservations(dict(enumerate(rows)), others=others)
    used = [each for _, each in rows]
    for _ in range(10):
        tenant_id, change = data.draw(st.tuples(st.integers(0, len(rows)), st.sampled_from([-1, 1])))
        kept.count(tenant_id, change)
        if tenant_id < len(rows):
            used[tenant_id] += change
        unused = [max(0, reserved - now) for (reserved, _), now in zip(rows, used, strict=True)]
        assert kept.unused == others + sum(unused)
        assert [kept.unused_of(each) for each in range(len(rows))] == unused
        assert [kept.kept_from(each) for each in range(len(rows))] == [kept.unused - each for each in unused]


def test_the_refusal_says_how_much_is_kept_for_others() -> None:
    made = world([view(10, cap=10, used=6, reservations=Reservations({2: (5, 1)}))], [tenant(1), tenant(2)])
    refused, admitted = decide(made, [attempt(1), attempt(2)])
    assert refused.reason is Reason.BACKEND_LIMIT
    assert Limit(Scope.BACKEND, 6, 10, reserved=4) in refused.limits
    assert admitted.admitted


def test_a_reservation_that_is_used_up_is_free_again_with_its_sessions_end() -> None:
    made = world([view(10, cap=2, reservations=Reservations({2: (1, 0)}))], [tenant(1), tenant(2)])
    assert [each.admitted for each in decide(made, [attempt(2), attempt(1), attempt(1)])] == [True, True, False]
    made.release(tenant_id=2, backend_id=10, user="ann")
    assert [each.admitted for each in decide(made, [attempt(1), attempt(2)])] == [False, True]


def test_a_reservation_raises_no_limit() -> None:
    kept = Reservations({1: (5, 0)})
    assert decide(world([view(10, reservations=kept)], [tenant(limit=0)]), [attempt()])[0].reason is Reason.SESSION_LIMIT
    assert decide(world([view(10, reservations=kept)], [tenant()], platform_limit=0), [attempt()])[0].reason is Reason.PLATFORM_LIMIT


def test_a_backend_without_a_cap_has_nothing_to_keep() -> None:
    made = world([view(10, cap=None, reservations=Reservations({2: (5, 0)}))], [tenant(1)])
    (verdict,) = decide(made, [attempt()])
    assert verdict.admitted
    assert Limit(Scope.BACKEND, 0, None) in verdict.limits


def test_a_reservation_on_an_unhealthy_backend_counts_nowhere_else() -> None:
    backends = [view(10, healthy=False, reservations=Reservations({1: (5, 0)})), view(11, cap=2, reservations=Reservations({2: (1, 0)}))]
    made = world(backends, [tenant(1, (10, 11)), tenant(2, (10, 11))])
    assert [each.backend_id for each in decide(made, [attempt(1), attempt(1), attempt(2)])] == [11, None, 11]


def test_a_move_takes_no_reservation_of_others_and_gives_its_own_back() -> None:
    own, others = view(10, used=1, reservations=Reservations({1: (1, 1)})), view(11, cap=1, reservations=Reservations({2: (1, 0)}))
    made = world([own, others, view(12)], [tenant(1, (10, 11))])
    assert choose_other_backend(made, attempt(exclude=frozenset({10}))).reason is Reason.BACKEND_LIMIT
    made.tenants[1].backends = frozenset({10, 11, 12})
    assert choose_other_backend(made, attempt(exclude=frozenset({10}))).backend_id == 12
    own.count(1, -1)
    assert (own.used, own.reservations.unused) == (0, 1)
