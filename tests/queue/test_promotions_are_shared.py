"""Who gets the slots that become free, one at a time and in any order: by weight within a priority, by priority before that."""

import random
from collections import Counter
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.utils import timezone

from sessions_app.domain.operations import End, Promoted
from sessions_app.domain.states import Reason
from sessions_app.models import BackendHealth, Session, Slot, Waiter
from sessions_app.selectors import verification
from sessions_app.services.ledger import Ledger
from tenants.models import Quota, Tenant
from tests.world import admit, admitted, ledger_mark, make_backend, make_tenant

SLOTS = 12
ROUNDS = 40
QUEUE = 10  # how many of a tenant may wait, where that is bounded


def only_backend(cap: int) -> None:
    make_backend(cap=cap)
    BackendHealth.objects.update(last_probe_at=timezone.now() + timedelta(hours=1))  # healthy for as long as this takes


def flooding(slug: str, **quota: Any) -> Tenant:
    return make_tenant(slug, max_concurrent_sessions=None, max_queue_length=None, max_queue_wait_s=None, sessions_per_minute=None, **quota)


def fill(ledger: Ledger, tenant: Tenant, count: int) -> list[Any]:
    return [admitted(each).session_id for each in ledger.apply([admit(tenant, f"user{n}") for n in range(count)])]


def promoted_by(ledger: Ledger, session_id: Any) -> Promoted:
    assert ledger.apply([End(session_id, Reason.COMPLETED)]) == [True]
    (promoted,) = ledger.promoted
    return promoted


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_three_and_one_share_promotions_three_to_one(ledger: Ledger, seed: int) -> None:
    only_backend(SLOTS)
    live = fill(ledger, flooding("others"), SLOTS)
    heavy, light = flooding("heavy", weight=3), flooding("light", weight=1)
    for _ in range(2):
        fill(ledger, light, 200)
        fill(ledger, heavy, 200)
    tenant_of = dict(Waiter.objects.values_list("session_id", "tenant_id"))
    shares: Counter[int] = Counter()
    order = random.Random(seed)
    for _ in range(ROUNDS):
        order.shuffle(live)
        for index, each in enumerate(live):
            live[index] = promoted_by(ledger, each).session_id
            shares[tenant_of[live[index]]] += 1
    assert shares.total() == SLOTS * ROUNDS
    assert shares[heavy.pk] / shares[light.pk] == pytest.approx(3, rel=0.1)
    assert Slot.objects.count() == SLOTS
    assert verification.discrepancies() == []
    assert verification.history().findings == []


def test_they_are_shared_as_well_where_bounded_queues_are_refilled_all_the_time(ledger: Ledger) -> None:
    only_backend(SLOTS)
    live = fill(ledger, flooding("others"), SLOTS)
    heavy, light = flooding("heavy", weight=3), flooding("light", weight=1)
    Quota.objects.filter(tenant__in=[heavy, light]).update(max_queue_length=QUEUE)
    for each in (light, heavy):
        fill(ledger, each, QUEUE)
    tenant_of = dict(Session.objects.values_list("pk", "tenant_id"))
    shares: Counter[int] = Counter()
    order = random.Random(7)
    for number in range(SLOTS * ROUNDS):
        # Both ask again with each end; there is a place for the one whose waiter was let in.
        attempts = [admit(each, f"user{number}") for each in order.sample([heavy, light], 2)]
        tenant_of |= {each.attempt.session_id: each.attempt.tenant_id for each in attempts}
        index = order.randrange(SLOTS)
        ended, *answers = ledger.apply([End(live[index], Reason.COMPLETED), *attempts])
        (promoted,) = ledger.promoted
        assert (ended, sorted(admitted(each).verdict.queued for each in answers)) == (True, [False, True])
        live[index] = promoted.session_id
        shares[tenant_of[promoted.session_id]] += 1
    assert Waiter.objects.filter(tenant_id=light.pk).count() == Waiter.objects.filter(tenant_id=heavy.pk).count() == QUEUE
    assert shares[heavy.pk] / shares[light.pk] == pytest.approx(3, rel=0.1)
    assert verification.history().findings == []


def test_a_higher_priority_is_promoted_first_whoever_came_first(ledger: Ledger) -> None:
    only_backend(1)
    live = fill(ledger, flooding("others"), 1)[0]
    tenants = [flooding(f"p{each}", priority=each, weight=9 - each) for each in (0, 1, 2)]
    for each in tenants:
        fill(ledger, each, 4)
    tenant_of = dict(Waiter.objects.values_list("session_id", "tenant_id"))
    promoted = []
    for _ in range(12):
        live = promoted_by(ledger, live).session_id
        promoted.append(tenant_of[live])
    low, middle, high = (each.pk for each in tenants)
    assert promoted == [high] * 4 + [middle] * 4 + [low] * 4


def test_thirty_seconds_of_waiting_are_worth_one_priority(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    only_backend(1)
    live = fill(ledger, flooding("others"), 1)[0]
    low, high = flooding("low"), flooding("high", priority=1)
    waits = fill(ledger, low, 1)[0]
    with ledger_mark(sql):
        sql.execute("UPDATE sessions_app_waiter SET since = since - interval '30 s'")
    newer = fill(ledger, high, 1)[0]
    # Level now, and neither has anything in use: first come, first in.
    assert [promoted_by(ledger, live).session_id, promoted_by(ledger, waits).session_id] == [waits, newer]
