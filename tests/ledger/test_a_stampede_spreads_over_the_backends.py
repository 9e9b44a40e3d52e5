"""Sessions that are still being started count for the choice of a backend, so that a stampede does not all land on one."""

from collections import Counter

import pytest

from sessions_app.domain.states import State
from sessions_app.models import Backend, Session, Slot
from sessions_app.services.ledger import Ledger
from tests.world import admit, admitted, make_backend, make_tenant

BATCHES = 5


def on(backend: Backend) -> int:
    return Slot.objects.filter(backend_id=backend.pk, state=State.STARTING).count()


@pytest.mark.parametrize("cap", [None, 500], ids=["without caps", "with caps"])
@pytest.mark.parametrize("size", [1, 8, 40])
def test_three_to_one_by_weight_in_every_batch(ledger: Ledger, cap: int | None, size: int) -> None:
    heavy, light = make_backend("heavy", cap=cap, weight=3), make_backend("light", cap=cap, weight=1)
    tenant = make_tenant(max_concurrent_sessions=None)
    for number in range(1, BATCHES + 1):
        answers = [admitted(each) for each in ledger.apply([admit(tenant, f"user{n}") for n in range(size)])]
        assert {each.state for each in answers} == {State.STARTING}
        assert sum(Counter(each.backend.name for each in answers if each.backend).values()) == size
        # Not one of them is active, so what spreads the next batch is what is being started.
        assert on(heavy) + on(light) == number * size == Session.objects.filter(state=State.STARTING).count()
        assert abs(on(heavy) - 3 * number * size / 4) < 1


def test_a_backend_that_is_behind_gets_the_next_ones(ledger: Ledger) -> None:
    heavy, light = make_backend("heavy", weight=3), make_backend("light", weight=1)
    tenant = make_tenant(max_concurrent_sessions=None)
    ledger.apply([admit(tenant, backend="light") for _ in range(10)])
    ledger.apply([admit(tenant) for _ in range(15)])
    assert (on(heavy), on(light)) == (15, 10)
    ledger.apply([admit(tenant) for _ in range(19)])
    assert (on(heavy), on(light)) == (33, 11)
