"""Who may use which backend: edited under the tenant's lock, recorded, and refused where reserved slots would then be too many."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from threading import Lock
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from sessions_app.models import Backend, BackendAccess, LimitChange
from sessions_app.services.ledger_sql import BACKEND_KEY, TENANT_KEY
from tenants.models import Quota, Tenant
from tests.verify.outside import assert_clean
from tests.views.test_admin_edits_limits_and_only_shows_records import form
from tests.world import make_backend, make_tenant

TOO_MANY = "Reservations on backend alder would be 6 slots, more than its cap of 5."


@pytest.fixture
def admin_client(committed_db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("olga"))
    return client


@pytest.fixture
def backends(committed_db: None) -> list[Backend]:
    """The first has room for what one tenant reserves; the others for both."""
    return [make_backend("alder", cap=5), make_backend("beech", cap=9), make_backend("cedar", cap=9)]


@pytest.fixture
def tenants(backends: list[Backend]) -> list[Tenant]:
    """One reserves on the first backend by default, the other on the second, since it may use no other."""
    acme, birch = make_tenant("acme", reserved=3), make_tenant("birch")
    BackendAccess.objects.create(tenant=birch, backend=backends[1])
    Quota.objects.filter(tenant=birch).update(reserved=3)
    return [acme, birch]


def address(backend: Backend, page: str = "change") -> str:
    return reverse(f"admin:sessions_app_backend_{page}", args=[backend.pk])


def access(*rows: tuple[int | str, int], backend: Backend, gone: tuple[int, ...] = ()) -> dict[str, Any]:
    """What the browser posts for the tenants of a backend: (id of the row or nothing, tenant)."""
    values: dict[str, Any] = {"access-TOTAL_FORMS": len(rows), "access-INITIAL_FORMS": sum(1 for pk, _ in rows if pk)}
    for number, (pk, tenant_id) in enumerate(rows):
        values |= {f"access-{number}-id": pk, f"access-{number}-tenant": tenant_id, f"access-{number}-backend": backend.pk}
        if pk in gone:
            values[f"access-{number}-DELETE"] = "on"
    return values


def told(**filters: Any) -> list[tuple[Any, ...]]:
    """The backends of each record of access, before and after."""
    rows = LimitChange.objects.filter(source="sessions_app_backendaccess", **filters).order_by("seq")
    return [tuple(side and side["backend_id"] for side in (each.old, each.new)) for each in rows]


def test_each_change_is_recorded_for_its_tenant(tenants: list[Tenant], backends: list[Backend]) -> None:
    acme, birch = tenants
    alder, beech, cedar = (each.pk for each in backends)
    Backend.objects.update(cap=None)
    row = BackendAccess.objects.create(tenant=acme, backend=backends[2])
    BackendAccess.objects.filter(pk=row.pk).update(backend=alder)
    BackendAccess.objects.filter(pk=row.pk).update(tenant=birch)
    BackendAccess.objects.filter(pk=row.pk).update(tenant=birch)  # nothing was changed
    row.delete()
    assert told(ref=acme.pk) == [(None, cedar), (cedar, alder), (alder, None)]
    assert told(ref=birch.pk) == [(None, beech), (None, alder), (alder, None)]
    assert_clean()


def test_an_edit_waits_for_the_tenants_batch_and_for_those_of_the_backends(
    tenants: list[Tenant], backends: list[Backend], sql: psycopg.Connection[Any]
) -> None:
    birch = tenants[1]
    alder, beech, cedar = (each.pk for each in backends)
    Backend.objects.update(cap=None)
    statement = f"INSERT INTO sessions_app_backendaccess (tenant_id, backend_id) VALUES ({birch.pk}, {alder})"
    # Its place before, its place after, and the tenant's own; of the third backend nothing is changed.
    assert waits_for(sql, statement, [TENANT_KEY + birch.pk, BACKEND_KEY + alder, BACKEND_KEY + beech, BACKEND_KEY + cedar]) == [
        True, True, True, False,
    ]  # fmt: skip
    assert waits_for(sql, "UPDATE tenants_quota SET reserved = 0", [BACKEND_KEY + alder, BACKEND_KEY + beech]) == [True, True]
    assert waits_for(sql, f"UPDATE sessions_app_backend SET enabled = false WHERE id = {alder}", [BACKEND_KEY + beech]) == [True]
    assert waits_for(sql, f"UPDATE sessions_app_backend SET enabled = false WHERE id = {beech}", [BACKEND_KEY + alder]) == [False]


def waits_for(sql: psycopg.Connection[Any], statement: str, keys: list[int]) -> list[bool]:
    """Say of each lock whether the statement takes it; it is not done."""
    found = []
    with sql.transaction(force_rollback=True):
        sql.execute(statement.encode())
        for key in keys:
            held = sql.execute(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
                " AND (classid::bigint << 32) + objid::bigint = %s)",
                (key,),
            ).fetchall()
            found.append(bool(held[0][0]))
    return found


def test_who_comes_to_where_there_is_no_room_for_what_is_reserved_is_refused(
    tenants: list[Tenant], backends: list[Backend], sql: psycopg.Connection[Any]
) -> None:
    birch = tenants[1]
    for statement in (
        f"INSERT INTO sessions_app_backendaccess (tenant_id, backend_id) VALUES ({birch.pk}, {backends[0].pk})",
        f"DELETE FROM sessions_app_backendaccess WHERE tenant_id = {birch.pk}",
        f"UPDATE sessions_app_backendaccess SET backend_id = {backends[0].pk}",
    ):
        with pytest.raises(psycopg.Error, match=TOO_MANY):
            sql.execute(statement.encode())
    sql.execute(f"INSERT INTO sessions_app_backendaccess (tenant_id, backend_id) VALUES ({birch.pk}, {backends[2].pk})".encode())
    assert_clean()


def refuse(*words: str) -> str:
    with pytest.raises(CommandError) as caught:
        call_command(*words, stdout=StringIO())
    return str(caught.value)


def test_a_backend_that_becomes_the_first_has_to_have_room(tenants: list[Tenant], backends: list[Backend]) -> None:
    call_command("set_backend", "cedar", "enabled=no", stdout=StringIO())
    call_command("set_backend", "beech", "cap=5", stdout=StringIO())
    assert refuse("set_backend", "alder", "enabled=no") == "Reservations on backend beech would be 6 slots, more than its cap of 5."
    call_command("set_backend", "beech", "cap=6", stdout=StringIO())
    call_command("set_backend", "alder", "enabled=no", "cap=2", stdout=StringIO())
    assert refuse("set_backend", "alder", "enabled=yes") == "Reservations on backend alder would be 3 slots, more than its cap of 2."
    assert_clean()


def test_a_new_backend_has_to_have_room_for_who_waits_for_it(committed_db: None) -> None:
    make_tenant("acme", reserved=4)
    make_tenant("birch", reserved=7, reserved_backend="beech")
    assert refuse("set_backend", "alder", "provider=loopback", "cap=3").startswith("Reservations on backend alder would be 4 slots")
    call_command("set_backend", "alder", "provider=loopback", "cap=4", stdout=StringIO())
    assert refuse("set_backend", "beech", "provider=loopback", "cap=6").startswith("Reservations on backend beech would be 7 slots")
    make_backend("cedar", cap=6)
    with pytest.raises(Exception, match="Reservations on backend beech would be 7 slots"):
        Backend.objects.filter(name="cedar").update(name="beech")
    assert set(Backend.objects.values_list("name", flat=True)) == {"alder", "cedar"}


def test_the_form_names_who_and_why_and_refuses_with_a_sentence(
    admin_client: Client, tenants: list[Tenant], backends: list[Backend]
) -> None:
    acme, birch = tenants
    alder, beech, cedar = backends
    values = form(name="cedar", cap="9", why="Their own machine.") | access(("", acme.pk), ("", birch.pk), backend=cedar)
    assert admin_client.post(address(cedar), values).status_code == 302
    assert {(each.ref, each.actor, each.note) for each in LimitChange.objects.order_by("-seq")[:2]} == {
        (acme.pk, "olga", "Their own machine."),
        (birch.pk, "olga", "Their own machine."),
    }
    values = form(name="alder", cap="5") | access(("", birch.pk), ("", acme.pk), backend=alder)
    answer = admin_client.post(address(alder), values, follow=True)
    assert f"Nothing was saved. {TOO_MANY}" in answer.content.decode()
    assert not alder.access.exists()
    assert beech.access.count() == 1


def test_a_tenant_keeps_the_backend_that_it_names_for_its_reserved_slots(
    admin_client: Client, tenants: list[Tenant], backends: list[Backend]
) -> None:
    acme, birch = tenants
    Quota.objects.filter(tenant=birch).update(reserved_backend="beech")
    Quota.objects.filter(tenant=acme).update(reserved_backend="alder")
    row = BackendAccess.objects.get()
    kept = BackendAccess.objects.create(tenant=birch, backend=backends[2])
    sentence = "{} has reserved slots on backend {}, which it could not use any more."
    values = form(name="beech", cap="9") | access((row.pk, birch.pk), backend=backends[1], gone=(row.pk,))
    assert sentence.format("birch", "beech") in admin_client.post(address(backends[1]), values).content.decode()
    values = form(name="cedar", cap="9") | access((kept.pk, birch.pk), ("", acme.pk), backend=backends[2])
    assert sentence.format("acme", "alder") in admin_client.post(address(backends[2]), values).content.decode()
    values = form(name="cedar", cap="9") | access((kept.pk, birch.pk), backend=backends[2], gone=(kept.pk,))
    assert admin_client.post(address(backends[2]), values).status_code == 302
    assert list(BackendAccess.objects.all()) == [row]


def test_deleting_a_backend_that_moves_too_much_is_refused(admin_client: Client, tenants: list[Tenant], backends: list[Backend]) -> None:
    Backend.objects.filter(name="beech").update(cap=5)
    answer = admin_client.post(address(backends[0], "delete"), {"post": "yes"}, follow=True)
    assert "Nothing was deleted. Reservations on backend beech would be 6 slots, more than its cap of 5." in answer.content.decode()
    selected = {"action": "delete_selected", "_selected_action": [backends[0].pk], "post": "yes"}
    answer = admin_client.post(reverse("admin:sessions_app_backend_changelist"), selected, follow=True)
    assert "Nothing was changed. Reservations on backend beech" in answer.content.decode()
    assert Backend.objects.count() == 3


def test_a_tenant_goes_with_what_it_reserved_wherever_that_was(tenants: list[Tenant]) -> None:
    tenants[1].delete()
    assert not BackendAccess.objects.exists()
    assert_clean()


def test_edits_of_access_and_of_backends_do_not_lock_each_other_out(
    admin_client: Client, tenants: list[Tenant], backends: list[Backend]
) -> None:
    """Forms with a new cap and other tenants, quotas and single rows at once: all come through, and nobody is killed for it."""
    acme, birch = tenants
    olga = User.objects.get()
    turns = {each.name: Lock() for each in backends[1:]}  # two forms of one backend would both add the same row

    def by_form(number: int) -> bool:
        backend = backends[1 + number % 2]
        client = Client()
        client.force_login(olga)
        with turns[backend.name]:
            rows: list[tuple[int | str, int]] = [(each.pk, each.tenant_id) for each in BackendAccess.objects.filter(backend=backend)]
            posted = access(*(rows or [("", birch.pk), ("", acme.pk)]), backend=backend, gone=tuple(int(pk) for pk, _ in rows))
            return client.post(address(backend), form(name=backend.name, cap=str(20 + number)) | posted).status_code == 302

    def by_command(number: int) -> bool:
        call_command("set_quota", ("acme", "birch")[number % 2], f"reserved={number % 3}", stdout=StringIO())
        return True

    assert all(at_once([(by_form, number) for number in range(16)] + [(by_command, number) for number in range(40)]))
    assert_clean()


def at_once(work: Sequence[tuple[Callable[[int], bool], int]]) -> list[bool]:
    from django.db import connection

    def one(do: Callable[[int], bool], number: int) -> bool:
        try:
            return do(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as threads:
        return [each.result(60) for each in [threads.submit(one, *each) for each in work]]
