"""Replayed: who was let in above a tenant's limit is marked and was on a calm backend, and nobody took what others had reserved."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from threading import Event
from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import Activate, Admit, Admitted, End, Move, Operation
from sessions_app.domain.states import Reason
from sessions_app.models import Backend, BackendAccess, BackendHealth, LimitChange, Session, SessionEvent
from sessions_app.selectors import verification
from sessions_app.services.ledger import Ledger
from tenants.models import Quota, Tenant
from tests.verify.outside import assert_clean, from_outside, verify_history
from tests.world import NODE, admit, admitted, make_backend, make_tenant, new_ledger


@dataclass
class World:
    ledger: Ledger
    alder: Backend
    beech: Backend
    acme: Tenant
    birch: Tenant

    def ask(self, *operations: Operation) -> list[Admitted]:
        return [admitted(each) for each in self.ledger.apply(list(operations)) if isinstance(each, Admitted)]

    def end(self, *answers: Admitted) -> None:
        assert all(self.ledger.apply([End(each.session_id, Reason.COMPLETED) for each in answers]))


@pytest.fixture
def world(ledger: Ledger) -> World:
    """acme may go two above its limit of two; birch has reserved three of the first backend's eight."""
    alder, beech = make_backend("alder", cap=8, burst_below=0.5), make_backend("beech", cap=4, weight=0)
    acme = make_tenant("acme", max_concurrent_sessions=2, burst=2)
    birch = make_tenant("birch", max_concurrent_sessions=8, reserved=3, reserved_backend="alder")
    return World(ledger, alder, beech, acme, birch)


def bursts(answers: list[Admitted]) -> list[bool | None]:
    return [each.verdict.burst if each.verdict.admitted else None for each in answers]


def lived(world: World) -> dict[str, Any]:
    """A history with bursts and full reservations; return what tests of it name."""
    first = world.ask(admit(world.acme, backend="alder"), admit(world.acme, backend="alder"))
    burst = world.ask(admit(world.acme, backend="alder"))[0]
    assert burst.verdict.burst
    own = world.ask(admit(world.birch, backend="alder"))[0]
    assert bursts(world.ask(admit(world.acme, backend="alder"))) == [None]
    world.ask(Activate(burst.session_id, NODE), Activate(own.session_id, NODE))
    return {
        "first": first[0].session_id,
        "burst": burst.session_id,
        "own": own.session_id,
        "acme": world.acme.pk,
        "birch": world.birch.pk,
        "alder": world.alder.pk,
        "burst_seq": SessionEvent.objects.get(session_id=burst.session_id, old="").seq,
    }


BROKEN: dict[str, tuple[str, str]] = {
    "a mark taken away": (
        "UPDATE sessions_app_session SET burst = false WHERE id = '{burst}'",
        "session {burst} of tenant {acme} started with at least 2 in use and a limit of 2, and is not marked as a burst",
    ),
    "a mark added": (
        "UPDATE sessions_app_session SET burst = true WHERE id = '{first}'",
        "session {first} of tenant {acme} started with no more than 0 in use and a limit of 2, and is marked as a burst",
    ),
    "a mark added where there is no burst": (
        "UPDATE sessions_app_session SET burst = true WHERE id = '{own}'",
        "session {own} of tenant {birch} started and is marked as a burst, of which it may have none",
    ),
    "a limit's record changed": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{max_concurrent_sessions}}', '3')"
        " WHERE new ? 'burst' AND ref = {acme} AND scope = 'tenant'",
        "session {burst} of tenant {acme} started with no more than 2 in use and a limit of 3, and is marked as a burst",
    ),
    "a share's record changed": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{burst_below}}', '0.25') WHERE scope = 'backend' AND ref = {alder}",
        "started as a burst on backend {alder}, which had at least 2 of 8 in use, its share is 0.25",
    ),
    "a share's record that is none": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{burst_below}}', '7') WHERE scope = 'backend' AND ref = {alder}",
        "of backend {alder} has no limit in its field burst_below",
    ),
    "a reservation's record changed": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{reserved}}', '6') WHERE scope = 'tenant' AND ref = {birch}"
        " AND (new ->> 'reserved')::int = 3",
        "session {burst} of tenant {acme} started on backend {alder}, which had at least 2 in use and 6 kept for others, its cap was 8",
    ),
    "a reservation's record added": (
        "INSERT INTO sessions_app_limitchange (seq, scope, ref, old, new, at, db_user) SELECT {burst_seq} - 1, scope, ref, new,"
        " jsonb_set(new, '{{reserved}}', '7'), at, db_user FROM sessions_app_limitchange WHERE scope = 'tenant' AND ref = {birch}"
        " AND (new ->> 'reserved')::int = 3",
        "session {burst} of tenant {acme} started on backend {alder}, which had at least 2 in use and 7 kept for others, its cap was 8",
    ),
    "a reservation that is no number": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{reserved}}', '\"all\"') WHERE scope = 'tenant' AND ref = {birch}"
        " AND (new ->> 'reserved')::int = 3",
        "the quota of tenant {birch} has no limit in its field reserved",
    ),
    "a tenant's access added": (
        "INSERT INTO sessions_app_backendaccess (tenant_id, backend_id) VALUES ({acme}, {alder})",
        "of tenant {acme} has no record of its limits",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_was_done_from_outside_is_named_with_exit_code_1(world: World, sql: psycopg.Connection[Any], what: str) -> None:
    known = lived(world)
    # Numbers that nobody has: an edit's lies before each batch of this history.
    with from_outside(sql):
        for table in ("sessionevent", "limitchange"):
            sql.execute(f"UPDATE sessions_app_{table} SET seq = seq * 2".encode())
        sql.execute("SELECT setval('voice_ledger_seq', 2 * last_value) FROM voice_ledger_seq")
    known["burst_seq"] *= 2
    assert_clean()
    statement, wanted = BROKEN[what]
    with from_outside(sql):
        assert sql.execute(statement.format(**known).encode()).rowcount > 0
    code, said = verify_history()
    assert code == 1
    assert any(wanted.format(**known) in line for line in said), said


def test_bursts_are_clean_with_releases_before_attempts_of_one_batch(world: World) -> None:
    running = world.ask(*(admit(world.acme, backend="alder") for _ in range(3)))
    assert bursts(running) == [False, False, True]
    ends = [End(each.session_id, Reason.COMPLETED) for each in running[:2]]
    assert bursts(world.ask(*ends, *(admit(world.acme, backend="alder") for _ in range(4)))) == [False, True, True, None]
    assert_clean()


def test_an_end_that_is_asked_for_in_its_own_batch_comes_behind_and_is_clean(world: World) -> None:
    """The batch asks again for a session, and ends it: who asks in between finds it in use."""
    first, second = admit(world.acme, backend="alder"), admit(world.acme, backend="alder")
    world.ask(first, second)
    again: list[Operation] = [first, admit(world.acme, backend="alder"), End(first.attempt.session_id, Reason.COMPLETED)]
    assert bursts(world.ask(*again))[1] is True
    brief = admit(world.acme, "bob", backend="alder")
    world.ask(brief, admit(world.acme, "cy", backend="alder"), End(brief.attempt.session_id, Reason.COMPLETED))
    assert_clean()


def test_who_is_gone_before_the_next_one_of_the_batch_asks_counts_for_nobody(world: World) -> None:
    world.ask(admit(world.acme, backend="alder"))
    brief = admit(world.acme, backend="alder")
    answers = world.ask(brief, End(brief.attempt.session_id, Reason.COMPLETED), admit(world.acme, backend="alder"))
    assert bursts(answers) == [False, False]
    assert_clean()


def test_who_is_let_in_from_the_queue_can_make_a_burst_of_who_asks(world: World, sql: psycopg.Connection[Any]) -> None:
    sql.execute("UPDATE tenants_quota SET reserved = 0, max_queue_length = 5")
    sql.execute("UPDATE sessions_app_backend SET cap = 1 WHERE id = %s", (world.alder.pk,))
    full = world.ask(admit(world.birch, backend="alder"))[0]
    world.ask(admit(world.acme, backend="beech"), admit(world.acme, backend="alder"))
    answers = world.ask(End(full.session_id, Reason.COMPLETED), admit(world.acme, backend="beech"))
    assert bursts(answers) == [True]
    assert Session.objects.filter(tenant=world.acme, state="starting").count() == 3
    assert_clean()


def test_who_waited_is_promoted_as_a_burst_and_is_clean(world: World, sql: psycopg.Connection[Any]) -> None:
    sql.execute("UPDATE tenants_quota SET max_queue_length = 5, burst = 1 WHERE tenant_id = %s", (world.acme.pk,))
    running = world.ask(*(admit(world.acme, backend="alder") for _ in range(4)))
    assert bursts(running) == [False, False, True, None]
    ends = [End(each.session_id, Reason.COMPLETED) for each in running[:2]]
    world.ask(*ends, admit(world.acme, "bob", backend="alder"))
    assert sorted(Session.objects.filter(state="starting").values_list("burst", flat=True)) == [False, True, True]
    assert_clean()


def test_a_reservation_may_be_made_of_what_others_have(world: World, sql: psycopg.Connection[Any]) -> None:
    """It goes beyond what is free, so it is kept as soon as somebody leaves; until then nobody else is let in."""
    sql.execute("UPDATE tenants_quota SET max_concurrent_sessions = 9 WHERE tenant_id = %s", (world.acme.pk,))
    running = world.ask(*(admit(world.acme, backend="alder") for _ in range(5)))
    sql.execute("UPDATE tenants_quota SET reserved = 6 WHERE tenant_id = %s", (world.birch.pk,))
    assert bursts(world.ask(admit(world.acme, backend="alder"), admit(world.birch, backend="alder"))) == [None, False]
    world.end(*running[:4])
    assert bursts(world.ask(admit(world.acme, backend="alder"), admit(world.acme, backend="alder"))) == [False, None]
    assert_clean()


def deny_all(world: World) -> None:
    BackendAccess.objects.all().delete()


EDITS: dict[str, Callable[[World], object]] = {
    "to the first backend": lambda world: Quota.objects.filter(tenant=world.birch).update(reserved_backend=""),
    "to the only one that it may use": lambda world: BackendAccess.objects.create(tenant=world.birch, backend=world.beech),
    "back, as it may use all": deny_all,
    "away, as the first one is disabled": lambda world: Backend.objects.filter(pk=world.alder.pk).update(enabled=False),
    "back, as it is enabled": lambda world: Backend.objects.filter(pk=world.alder.pk).update(enabled=True),
    "by name": lambda world: Quota.objects.filter(tenant=world.birch).update(reserved_backend="beech"),
    "to nowhere, as it has another name": lambda world: Backend.objects.filter(pk=world.beech.pk).update(name="cedar"),
    "to who has the name now": lambda world: Backend.objects.filter(pk=world.alder.pk).update(name="beech"),
    "to nowhere, as there is none": lambda world: Quota.objects.filter(tenant=world.birch).update(reserved=0),
}


def test_a_reservation_is_followed_wherever_an_edit_moves_it(world: World) -> None:
    Quota.objects.filter(tenant=world.acme).update(max_concurrent_sessions=None)
    for what, edit in EDITS.items():
        edit(world)
        running = [each for each in world.ask(*(admit(world.acme) for _ in range(13))) if each.verdict.admitted]
        running += [each for each in world.ask(*(admit(world.birch) for _ in range(9))) if each.verdict.admitted]
        assert running, what
        world.end(*running)
    assert LimitChange.objects.filter(source="sessions_app_backendaccess").count() == 2
    assert_clean()


def test_a_move_leaves_free_what_others_have_reserved(world: World) -> None:
    Quota.objects.filter(tenant=world.birch).update(reserved=4, reserved_backend="beech")
    attempt: Admit = admit(world.acme, backend="alder")
    world.ask(attempt)
    move = Move(replace(attempt.attempt, backend="", exclude=frozenset({world.alder.pk})), NODE)
    assert bursts(world.ask(move)) == [None]
    Quota.objects.filter(tenant=world.birch).update(reserved=3)
    assert bursts(world.ask(move)) == [False]
    assert_clean()


def test_an_active_session_may_move_between_rooms(world: World) -> None:
    Backend.objects.update(transports=["webrtc"])
    attempt: Admit = admit(world.acme, transport="webrtc", backend="alder")
    world.ask(attempt)
    world.ledger.apply([Activate(attempt.attempt.session_id, NODE)])
    assert bursts(world.ask(Move(replace(attempt.attempt, backend="", exclude=frozenset({world.alder.pk})), None))) == [False]
    assert_clean()


def test_an_override_of_limit_or_burst_counts_while_it_lasts(world: World, sql: psycopg.Connection[Any]) -> None:
    override = (
        "INSERT INTO tenants_override (tenant_id, field, change, starts_at, ends_at, note, created_by, created_at)"
        " VALUES (%s, %s, %s, now() + %s * interval '1 hour', now() + %s * interval '1 hour', '', '', now())"
    )
    for field, change, starts, ends in (
        ("max_concurrent_sessions", -1, 0, 1),
        ("burst", 1, 0, 1),
        ("burst", 5, 2, 3),
        ("max_concurrent_sessions", 5, -48, -47),
    ):
        sql.execute(override, (world.acme.pk, field, change, starts, ends))
    assert bursts(world.ask(*(admit(world.acme, backend="alder") for _ in range(5)))) == [False, True, True, True, None]
    assert_clean()


def test_on_a_backend_that_is_ill_nothing_is_kept_and_nobody_starts(world: World) -> None:
    Quota.objects.filter(tenant=world.acme).update(max_concurrent_sessions=None)
    BackendHealth.objects.filter(backend=world.alder).update(status="unhealthy")
    assert bursts(world.ask(*(admit(world.acme) for _ in range(5)))) == [False] * 4 + [None]
    BackendHealth.objects.filter(backend=world.alder).update(status="healthy")
    assert bursts(world.ask(*(admit(world.acme) for _ in range(6)))) == [False] * 5 + [None]
    assert_clean()


def test_without_a_cap_bursts_are_always_allowed_and_nothing_is_kept(world: World) -> None:
    Backend.objects.filter(pk=world.alder.pk).update(cap=None, burst_below=0.0)
    world.ask(*(admit(world.birch, backend="alder") for _ in range(8)))
    assert bursts(world.ask(*(admit(world.acme, backend="alder") for _ in range(5)))) == [False, False, True, True, None]
    assert_clean()


def test_before_access_was_recorded_nobody_guesses_where_a_reservation_stood(world: World, sql: psycopg.Connection[Any]) -> None:
    """As a platform is that was there before: what access there was is recorded from a mark on."""
    Quota.objects.filter(tenant=world.birch).update(reserved_backend="", reserved=4)
    access = BackendAccess.objects.create(tenant=world.birch, backend=world.beech)
    assert bursts(world.ask(admit(world.acme, backend="alder"))) == [False]
    with from_outside(sql):
        sql.execute("DELETE FROM sessions_app_limitchange WHERE source = 'sessions_app_backendaccess'")
        sql.execute("UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{reserved}', '8') WHERE new ->> 'reserved' = '4'")
        sql.execute("UPDATE sessions_app_limitchange SET old = jsonb_set(old, '{reserved}', '8') WHERE old ->> 'reserved' = '4'")
        sql.execute("UPDATE tenants_quota SET reserved = 8 WHERE reserved = 4")
    code, said = verify_history()
    assert code == 1
    assert any("which had at least 0 in use and 8 kept for others, its cap was 8" in line for line in said), said
    sql.execute(import_module("sessions_app.migrations.0011_access_is_a_limit").BEGINNING)
    assert list(LimitChange.objects.filter(source="sessions_app_backendaccess").order_by("seq").values_list("scope", "ref", "new")) == [
        ("tenant", world.birch.pk, {"id": access.pk, "tenant_id": world.birch.pk, "backend_id": world.beech.pk}),
        ("access", 0, {}),
    ]
    assert_clean()
    assert bursts(world.ask(admit(world.acme, backend="beech"))) == [None]
    assert_clean()


def test_it_is_clean_while_reservations_move_on_a_platform_that_lives(world: World, sql: psycopg.Connection[Any]) -> None:
    """Each edit has its number under the locks of the backends that the reservation leaves and comes to: no batch can be in between."""
    over = Event()
    Quota.objects.update(max_concurrent_sessions=6, burst=3, sessions_per_minute=None)

    def live(tenant: Tenant) -> int:
        with new_ledger() as own:
            let_in = 0
            while not over.is_set():
                answers = [admitted(each) for each in own.apply([admit(tenant) for _ in range(7)])]
                running = [each.session_id for each in answers if each.verdict.admitted]
                own.apply([End(each, Reason.COMPLETED) for each in running])
                let_in += len(running)
        return let_in

    statements = (
        "UPDATE tenants_quota SET reserved = 4 WHERE tenant_id = {birch}",
        "UPDATE tenants_quota SET reserved_backend = 'beech' WHERE tenant_id = {birch}",
        "INSERT INTO sessions_app_backendaccess (tenant_id, backend_id) VALUES ({birch}, {beech})",
        "UPDATE tenants_quota SET reserved_backend = '' WHERE tenant_id = {birch}",
        "DELETE FROM sessions_app_backendaccess",
        "UPDATE sessions_app_backend SET enabled = false WHERE id = {alder}",
        "UPDATE sessions_app_backend SET enabled = NOT enabled WHERE id IN ({alder}, {beech})",
        "UPDATE sessions_app_backend SET enabled = true",
        "UPDATE tenants_quota SET reserved = 0, reserved_backend = 'alder' WHERE tenant_id = {birch}",
        "UPDATE sessions_app_backend SET burst_below = 1.3 - burst_below",
    )
    known = {"birch": world.birch.pk, "alder": world.alder.pk, "beech": world.beech.pk}
    with ThreadPoolExecutor(2) as threads:
        living = [threads.submit(live, each) for each in (world.acme, world.birch)]
        try:
            for _ in range(15):
                for statement in statements:
                    sql.execute(statement.format(**known).encode())
            found = verification.history().findings
        finally:
            over.set()
        assert all(each.result(20) > 0 for each in living)
    assert found == []
    assert_clean()
