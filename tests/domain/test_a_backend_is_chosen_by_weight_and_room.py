from collections import Counter

from sessions_app.domain.admission import decide
from sessions_app.domain.reservations import Reservations
from sessions_app.domain.world import BackendView
from tests.domain.worlds import attempt, tenant, view, world


def choices(backends: list[BackendView], count: int) -> Counter[int | None]:
    made = world(backends, [tenant(backends=[each.id for each in backends])])
    return Counter(each.backend_id for each in decide(made, [attempt()] * count))


def test_sessions_are_shared_out_by_weight() -> None:
    assert choices([view(1, weight=3, cap=100), view(2, weight=1, cap=100)], 40) == {1: 30, 2: 10}


def test_sessions_are_shared_out_by_weight_where_nothing_is_capped() -> None:
    assert choices([view(1, weight=3, cap=None), view(2, weight=1, cap=None)], 40) == {1: 30, 2: 10}
    assert choices([view(1, cap=None), view(2, cap=100)], 40) == {1: 20, 2: 20}


def test_the_larger_backend_gets_more() -> None:
    assert choices([view(1, cap=10), view(2, cap=30)], 20) == {1: 5, 2: 15}


def test_a_backend_that_takes_nothing_changes_nothing_for_the_others() -> None:
    assert choices([view(1, cap=10), view(2, cap=30), view(3, cap=0)], 20) == {1: 5, 2: 15}


def test_a_backend_of_weight_0_is_the_last_resort() -> None:
    assert choices([view(1, weight=0), view(2)], 15) == {2: 10, 1: 5}


def test_a_full_backend_is_passed_over_while_another_has_room() -> None:
    assert choices([view(1, used=10, weight=9), view(2)], 11) == {2: 10, None: 1}


def test_what_is_kept_for_others_is_no_headroom() -> None:
    kept = Reservations({7: (5, 0)})
    assert choices([view(1, reservations=kept), view(2)], 5) == {2: 5}
    assert choices([view(1, reservations=kept.copy()), view(2)], 16) == {2: 10, 1: 5, None: 1}


def test_the_own_reservation_is_used_first_even_on_a_busier_backend() -> None:
    own = Reservations({1: (3, 1)})
    assert choices([view(1, used=7, reservations=own), view(2)], 4) == {1: 2, 2: 2}
