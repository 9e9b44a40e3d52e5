"""The admin's list of limit changes, and the last ones on the pages of tenants and backends."""

import re
from datetime import timedelta
from importlib import import_module
from typing import Any

import psycopg
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from sessions_app.models import BackendAccess, LimitChange
from sessions_app.selectors import limit_changes
from sessions_app.services import configuration
from tenants import services
from tenants.models import Override, Quota, Tenant
from tests.views.conftest import text
from tests.world import make_backend, make_tenant

LIST = "admin:sessions_app_limitchange_changelist"
SECRET = "s3cret-of-the-vendor"


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def rows(client: Client, **query: str) -> list[list[str]]:
    body = text(client, reverse(LIST), **query).partition("<tbody>")[2]
    found = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [[words(each).strip() for each in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)] for row in found]


def test_who_changed_what_from_what_to_what_and_why(admin: Client) -> None:
    make_backend(cap=5)
    make_tenant()
    services.set_quota(slug="acme", values={"max_concurrent_sessions": "30", "max_duration_s": ""}, actor="olga", note="Bigger plan.")
    configuration.set_backend(name="loopback", values={"cap": "", "draining": "yes"}, actor="command:root")
    configuration.set_platform(values={"max_concurrent_sessions": "7"}, actor="olga", note="Licence.")
    newest = [each[1:] for each in rows(admin)[:3]]
    assert newest == [
        ["olga", "platform", "max_concurrent_sessions unlimited → 7", "Licence."],
        ["command:root", "backend loopback", "cap 5 → unlimited draining no → yes", "–"],
        ["olga", "quota of acme", "max_concurrent_sessions 10 → 30 max_duration_s 3600 → unlimited", "Bigger plan."],
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", rows(admin)[0][0])


def test_it_is_found_by_scope_and_by_name(admin: Client) -> None:
    make_backend("alder")
    make_tenant("acme")
    make_tenant("birch")
    assert {each[2] for each in rows(admin, scope="backend")} == {"backend alder"}
    assert {each[2] for each in rows(admin, q="birch")} == {"tenant birch", "quota of birch"}
    assert {each[2] for each in rows(admin, q=" alder ")} == {"backend alder"}
    assert rows(admin, q="alder", scope="tenant") == rows(admin, q="nobody") == []


def test_overrides_are_told_with_their_times_and_their_note(admin: Client) -> None:
    make_tenant()
    start = timezone.now().replace(year=2998)
    made = services.add_override(
        slug="acme", field="burst", change=5, starts_at=start, ends_at=start + timedelta(hours=2), note="launch", actor="olga"
    )
    times = f"from {start:%Y-%m-%d %H:%M} UTC to {start + timedelta(hours=2):%Y-%m-%d %H:%M} UTC"
    assert rows(admin)[0][1:] == ["olga", "override of acme", f"made: +5 burst {times}", "launch"]
    Override.objects.filter(pk=made.pk).update(change=7)
    assert rows(admin)[0][3] == "change 5 → 7"
    made.delete()
    assert rows(admin)[0][3].startswith("deleted: +7 burst from")


def test_who_may_use_which_backend_is_told_by_name(admin: Client) -> None:
    alder, beech, tenant = make_backend("alder"), make_backend("beech"), make_tenant()
    access = BackendAccess.objects.create(tenant=tenant, backend=alder)
    BackendAccess.objects.filter(pk=access.pk).update(backend=beech)
    access.delete()
    assert [each[2:4] for each in rows(admin, q="acme")[:3]] == [
        ["access of acme", "deleted: backend beech"],
        ["access of acme", "backend alder → backend beech"],
        ["access of acme", "made: backend alder"],
    ]
    page = words(text(admin, reverse("admin:tenants_tenant_change", args=[tenant.pk])))
    assert "access made: backend alder" in page
    assert "access backend alder → backend beech" in page


def test_where_the_record_of_access_began_is_told(admin: Client, sql: psycopg.Connection[Any]) -> None:
    make_tenant()
    sql.execute(import_module("sessions_app.migrations.0011_access_is_a_limit").BEGINNING)
    assert rows(admin)[0][2:] == ["record of access", "made", "From here on it is recorded who may use which backend."]


def test_secrets_are_changed_and_nothing_more(admin: Client) -> None:
    backend = make_backend()
    configuration.set_backend(name="loopback", values={"secrets": f'{{"key": "{SECRET}"}}'})
    assert rows(admin)[0][3] == "secrets changed"
    page = text(admin, reverse("admin:sessions_app_backend_change", args=[backend.pk]))
    change = text(admin, reverse("admin:sessions_app_limitchange_change", args=[LimitChange.objects.order_by("-seq")[0].pk]))
    for each in (page, change, text(admin, reverse(LIST))):
        assert SECRET not in each
        assert "gAAAA" not in each


def test_the_last_ten_stand_on_the_pages_of_tenant_and_backend(admin: Client) -> None:
    backend, tenant = make_backend(), make_tenant()
    for number in range(20, 32):
        services.set_quota(slug="acme", values={"max_concurrent_sessions": str(number)}, actor="olga", note=f"No. {number}")
        configuration.set_backend(name="loopback", values={"cap": str(number)}, actor="olga", note=f"No. {number}")
    for address, field in (
        (reverse("admin:tenants_tenant_change", args=[tenant.pk]), "max_concurrent_sessions"),
        (reverse("admin:sessions_app_backend_change", args=[backend.pk]), "cap"),
    ):
        page = text(admin, address)
        items = re.findall(r"<p>(.*?)</p>", re.findall(r'<div class="limit-changes">(.*?)</div>', page, re.DOTALL)[0], re.DOTALL)
        assert len(items) == 10
        assert f"olga : {field} 30 → 31 “No. 31”" in words(items[0])
        assert f"{field} 21 → 22" in words(items[-1])
        link = re.findall(r'<a href="([^"]*limitchange[^"]*)">All of them', page)[0].replace("&amp;", "&")
        assert len(re.findall(r"<tr>", text(admin, link).partition("<tbody>")[2])) >= 12


def test_what_was_written_past_every_door_names_the_databases_user(admin: Client, sql: psycopg.Connection[Any]) -> None:
    make_tenant()
    sql.execute("UPDATE tenants_quota SET weight = 5")
    user = sql.execute("SELECT current_user").fetchall()[0][0]
    assert rows(admin)[0][1:3] == [f"database user {user}", "quota of acme"]


def test_one_that_is_gone_still_has_a_name(admin: Client) -> None:
    tenant = make_tenant()
    number = tenant.pk
    tenant.delete()
    assert rows(admin, scope="tenant")[0][2:4] == ["tenant acme", "deleted"]
    assert {each[2] for each in rows(admin, scope="tenant")} == {"tenant acme", f"quota of number {number}"}


def test_records_of_an_older_version_are_told_apart_by_what_they_hold() -> None:
    at = timezone.now()
    made = LimitChange(seq=1, scope="tenant", ref=7, at=at, db_user="me", old={"weight": 1}, new={"weight": 2})
    name = LimitChange(seq=2, scope="tenant", ref=7, at=at, db_user="me", old={"slug": "x", "name": "a"}, new={"slug": "x", "name": "b"})
    kinds = [limit_changes._describe(each, {("tenant", 7): "x"}) for each in (made, name)]
    assert [(each.what, each.told) for each in kinds] == [("quota of x", "weight 1 → 2"), ("tenant x", "name a → b")]


def test_long_values_are_cut_and_markup_is_text(admin: Client) -> None:
    make_backend()
    configuration.set_backend(name="loopback", values={"options": '{"delay_ms": 1}'}, note="<script>alert(1)</script>")
    page = text(admin, reverse(LIST))
    assert "<script>alert" not in page
    assert 'options {} → {"delay_ms": 1}' in words(page).replace("&quot;", '"')
    assert len(limit_changes._text("options", {str(n): n for n in range(1000)})) <= limit_changes.MOST_CHARS + 1


def test_nobody_edits_it(admin: Client, staff: Client) -> None:
    make_tenant()
    change = LimitChange.objects.order_by("-seq")[0]
    address = reverse("admin:sessions_app_limitchange_change", args=[change.pk])
    assert admin.get(reverse("admin:sessions_app_limitchange_add")).status_code == 403
    assert admin.post(address, {"actor": "me"}).status_code == 403
    assert staff.get(reverse(LIST)).status_code == 403
    User.objects.get(username="ops").user_permissions.add(Permission.objects.get(codename="view_limitchange"))
    assert len(rows(staff)) == 3


def test_the_list_costs_the_same_however_long_it_is(admin: Client, django_assert_max_num_queries: Any) -> None:
    make_tenant()
    for number in range(30):
        Quota.objects.update(weight=number + 2)
    assert Tenant.objects.count() == 1
    with django_assert_max_num_queries(12):
        assert len(rows(admin)) == 33
