"""Every edit of a limit, by form or command, leaves who did it and why in the record of limits."""

import os
import pwd
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import transaction
from django.db.transaction import TransactionManagementError
from django.test import Client
from django.urls import reverse

from sessions_app.models import LimitChange
from tenants import services
from tenants.models import Tenant
from tests.tenants.test_admin_edits_tenants import form, page
from tests.views.test_admin_edits_limits_and_only_shows_records import form as backend_form
from tests.world import make_backend, make_tenant

ME = f"command:{pwd.getpwuid(os.getuid()).pw_name}"


@pytest.fixture
def admin_client(committed_db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("olga"))
    return client


def run(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()


def last(**filters: Any) -> tuple[str, str, str]:
    change = LimitChange.objects.filter(**filters).order_by("-seq")[0]
    return change.source, change.actor, change.note


def test_commands_name_the_operating_systems_user_and_the_reason(committed_db: None) -> None:
    run("create_tenant", "acme", "--reason", "A new customer.")
    assert last(source="tenants_tenant")[1:] == last(source="tenants_quota")[1:] == (ME, "A new customer.")
    run("set_quota", "acme", "weight=2", "--reason", " Signed the better plan. ")
    assert last() == ("tenants_quota", ME, "Signed the better plan.")
    run("set_quota", "acme", "weight=3")
    assert last() == ("tenants_quota", ME, "")
    run("set_backend", "loopback", "provider=loopback", "--reason", "First one.")
    run("set_backend", "loopback", "cap=7", "--reason", "It has a smaller machine now.")
    assert last() == ("sessions_app_backend", ME, "It has a smaller machine now.")
    run("set_platform", "max_concurrent_sessions=70", "--reason", "caf\udce9")
    assert last() == ("sessions_app_platform", ME, "caf?")
    with pytest.raises(CommandError, match=r"^The reason has 301 characters; at most 300 are kept\.$"):
        run("set_platform", "max_concurrent_sessions=71", "--reason", "x" * 301)


def test_the_form_of_a_tenant_names_the_user_and_the_reason(admin_client: Client) -> None:
    acme = make_tenant()
    assert 'name="why"' in admin_client.get(page(acme)).content.decode()
    assert admin_client.post(page(acme), form(acme, **{"quota-0-burst": "3", "why": "Their launch is on Friday."})).status_code == 302
    assert last() == ("tenants_quota", "olga", "Their launch is on Friday.")
    assert admin_client.post(page(acme), form(acme, **{"quota-0-burst": "4"})).status_code == 302
    assert last() == ("tenants_quota", "olga", "")
    admin_client.post(reverse("admin:tenants_tenant_changelist"), {"action": "suspend", "_selected_action": [acme.pk]})
    assert last() == ("tenants_tenant", "olga", "")
    assert "Why" not in "".join(str(each) for each in acme_log())


def acme_log() -> list[str]:
    from django.contrib.admin.models import LogEntry

    return [each.get_change_message() for each in LogEntry.objects.all()]


def test_the_forms_of_backends_and_the_platform_name_them_too(admin_client: Client) -> None:
    backend = make_backend()
    address = reverse("admin:sessions_app_backend_change", args=[backend.pk])
    assert admin_client.post(address, backend_form(cap="5", why="Half of it is being repaired.")).status_code == 302
    assert last() == ("sessions_app_backend", "olga", "Half of it is being repaired.")
    address = reverse("admin:sessions_app_platform_change", args=[1])
    assert admin_client.post(address, {"max_concurrent_sessions": "5", "why": "Licence."}).status_code == 302
    assert last() == ("sessions_app_platform", "olga", "Licence.")


def test_a_reason_that_is_too_long_is_refused_in_the_form_and_changes_nothing(admin_client: Client) -> None:
    acme = make_tenant()
    response = admin_client.post(page(acme), form(acme, **{"quota-0-burst": "3", "why": "x" * 301}))
    assert "at most 300 characters" in response.content.decode()
    assert Tenant.objects.get().quota.burst == 0


def test_a_deletion_names_who_did_it(admin_client: Client) -> None:
    assert admin_client.post(page(make_tenant(), "delete"), {"post": "yes"}).status_code == 302
    assert last(new__isnull=True, source="tenants_tenant")[1] == "olga"
    selected = {"action": "delete_selected", "_selected_action": [make_tenant().pk], "post": "yes"}
    assert admin_client.post(reverse("admin:tenants_tenant_changelist"), selected).status_code == 302
    assert last(new__isnull=True, source="tenants_tenant")[1] == "olga"
    assert not Tenant.objects.exists()


def test_an_edit_is_not_put_down_to_the_one_before_it(committed_db: None) -> None:
    acme = make_tenant()
    with transaction.atomic():
        services.set_quota(slug="acme", values={"weight": "2"}, actor="olga", note="First.")
        services.set_status(tenant=acme, status=Tenant.Status.SUSPENDED)
    assert last(source="tenants_tenant") == ("tenants_tenant", "", "")
    services.set_quota(slug="acme", values={"weight": "3"})
    assert last() == ("tenants_quota", "", "")


def test_outside_of_a_transaction_it_would_be_forgotten_and_is_refused(committed_db: None) -> None:
    with pytest.raises(TransactionManagementError):
        services.name_editor(actor="olga")


def test_who_may_only_look_is_not_asked_why(client: Client, committed_db: None) -> None:
    from django.contrib.auth.models import Permission

    acme = make_tenant()
    staff = User.objects.create(username="staff", is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename__in=["view_tenant"]))
    client.force_login(staff)
    assert 'name="why"' not in client.get(page(acme)).content.decode()
