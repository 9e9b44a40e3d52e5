"""Many processes admit, end and queue on one hot tenant at once; and what happens where the ledger's locks are taken out.

Which slots become free while nobody is seen to wait for them is settled by the promotion that a node asks for every second; here the
test asks for it.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.utils import timezone

from sessions_app.domain.operations import End, Promote
from sessions_app.domain.states import Reason
from sessions_app.models import BackendHealth, Capacity, SessionEvent, Slot, Waiter
from sessions_app.selectors import verification
from sessions_app.services.ledger import Ledger
from tenants.models import Tenant
from tests.queue.race_worker import LEDGERS
from tests.queue.racers import racers
from tests.world import admit, admitted, make_backend, make_tenant

CAP = 10
ROUNDS = 15
REPEATS = 8
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def backend(committed_db: None) -> int:
    backend = make_backend(cap=CAP)
    BackendHealth.objects.update(last_probe_at=timezone.now() + timedelta(hours=1))  # healthy for as long as this takes
    return backend.pk


def hot(slug: str = "hot", **quota: Any) -> Tenant:
    return make_tenant(slug, **({"max_concurrent_sessions": CAP, "max_queue_length": None, "sessions_per_minute": None} | quota))


def settle(ledger: Ledger) -> list[str]:
    """Promote until nobody fits."""
    promoted: list[str] = []
    while ledger.apply([Promote()]) == [True]:
        promoted += [str(each.session_id) for each in ledger.promoted]
    return promoted


def end_all(ledger: Ledger) -> None:
    """End what holds a slot or waits, those who wait first."""
    for model in (Waiter, Slot):
        keys = list(model.objects.values_list("pk", flat=True))
        assert ledger.apply([End(each, Reason.COMPLETED) for each in keys]) == [True] * len(keys)


def everyone(tenant: Tenant, count: int = 1) -> Sequence[list[list[Any]]]:
    return [[["admit", tenant.pk, f"user{number}.{each}"] for each in range(count)] for number in range(LEDGERS)]


def test_a_flood_of_attempts_and_ends_is_counted_exactly(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    tenant = hot()
    with racers() as race:
        told = race.flood(tenant.pk, ROUNDS)
    promoted = told.promoted + settle(ledger)
    assert told.failed == []
    assert len(set(promoted)) == len(promoted) <= len(told.queued)
    assert set(promoted) <= set(told.queued)
    assert len(told.admitted) + len(promoted) == len(told.ended) + Slot.objects.count()
    assert len(told.queued) == len(promoted) + Waiter.objects.count()
    assert Waiter.objects.count() > 0
    assert Slot.objects.count() == CAP
    assert SessionEvent.objects.filter(old="queued", new="starting").count() == len(promoted)
    both = sql.execute("SELECT count(*) FROM sessions_app_slot JOIN sessions_app_waiter USING (session_id)").fetchall()
    assert both == [(0,)]
    counter = Capacity.objects.get(scope="tenant", ref=tenant.pk)
    assert (counter.active, counter.queued) == (CAP, Waiter.objects.count())
    assert verification.discrepancies() == []
    assert verification.history().findings == []  # the cap was kept after each of the transactions, not only at the end


def test_as_many_are_let_in_as_leave_while_others_come(ledger: Ledger) -> None:
    tenant = hot()
    with racers() as race:
        for _ in range(REPEATS):
            live = race.race(everyone(tenant)).admitted
            assert len(live) == CAP
            half = LEDGERS // 2
            plans = [[["end", each]] for each in live[:half]] + [[["admit", tenant.pk, f"late{each}"]] for each in range(half)]
            told = race.race(plans)
            assert told.failed == []
            assert len(told.admitted) + len(told.promoted) == half
            assert (Slot.objects.count(), Waiter.objects.count()) == (CAP, LEDGERS - CAP)
            end_all(ledger)
    assert verification.discrepancies() == []


def test_without_the_ledgers_lock_more_than_the_cap_are_let_in() -> None:
    tenant = hot()
    with racers("--without-lock") as race:
        assert len(race.race(everyone(tenant)).admitted) > CAP


def test_without_the_ledgers_lock_promotions_are_lost(ledger: Ledger) -> None:
    tenant = hot()
    answers = ledger.apply([admit(tenant, f"live{number}") for number in range(CAP)])
    live = [str(admitted(each).session_id) for each in answers]
    with racers("--without-lock") as race:
        half = LEDGERS // 2
        plans = [[["end", each]] for each in live[:half]] + [[["admit", tenant.pk, f"late{each}"]] for each in range(half)]
        told = race.race(plans)
    assert len(told.queued) > len(told.promoted)
    assert Slot.objects.count() < CAP


def test_nobody_takes_the_slots_that_are_reserved_for_another(ledger: Ledger) -> None:
    rich, poor = hot("rich", reserved=6), hot("poor")
    with racers() as race:
        for number in range(REPEATS):
            told = race.race(everyone(poor))
            assert (len(told.admitted), len(told.queued)) == (CAP - 6, LEDGERS - (CAP - 6))
            assert len(race.race(everyone(rich)).admitted) == 6
            end_all(ledger)
            mixed = [each for pair in zip(everyone(rich), everyone(poor), strict=True) for each in pair][number : number + LEDGERS]
            told = race.race(mixed)
            of_poor = Slot.objects.filter(tenant_id=poor.pk).count()
            assert of_poor <= CAP - 6
            assert len(told.admitted) == Slot.objects.count() == CAP
            end_all(ledger)
    assert verification.discrepancies() == []
    assert verification.history().findings == []


def test_without_the_ledgers_lock_reserved_slots_are_taken() -> None:
    hot("rich", reserved=6)
    with racers("--without-lock") as race:
        assert len(race.race(everyone(hot("poor"))).admitted) > CAP - 6


@pytest.mark.parametrize("of", ["tenant", "user"])
def test_a_bucket_of_five_lets_exactly_five_in_at_once(of: str, sql: psycopg.Connection[Any]) -> None:
    rates: dict[str, dict[str, Any]] = {"tenant": {"sessions_per_minute": 5}, "user": {"user_sessions_per_minute": 5}}
    tenant = hot(max_concurrent_sessions=3, **rates[of])  # three get in, two wait: both spend
    plans = [[["admit", tenant.pk, "ann"]] * 2] * LEDGERS
    with racers() as race:
        told = race.race(plans)
    took_s = sql.execute("SELECT extract(epoch FROM max(at) - min(at))::float8 FROM sessions_app_sessionevent").fetchall()[0][0]
    got = len(told.admitted) + len(told.queued)
    assert 5 <= got <= 5 + took_s // 12, "a token comes back every 12 seconds"
    assert set(told.refused) == {Reason.RATE_LIMIT}
    assert len(told.refused) == 2 * LEDGERS - got
