"""The admin's pages of tenants, as a browser posts them."""

import re
from collections.abc import Iterator

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ValidationError
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from sessions_app.models.sessions import Session
from tenants import extensions, services
from tenants.exceptions import InvalidApiKey
from tenants.models import ApiKey, Membership, Quota, Tenant

pytestmark = pytest.mark.django_db

ADD, LIST = "admin:tenants_tenant_add", "admin:tenants_tenant_changelist"


@pytest.fixture
def acme() -> Tenant:
    return services.create_tenant(slug="acme", name="Acme Ltd")


def page(tenant: Tenant, name: str = "change", *more: int) -> str:
    return reverse(f"admin:tenants_tenant_{name}", args=[tenant.pk, *more])


def form(tenant: Tenant | None = None, **changes: object) -> dict[str, object]:
    """What the browser would post: the tenant, its quota as it is or by default, no member."""
    quota = Quota.objects.get(tenant=tenant) if tenant else Quota()
    values: dict[str, object] = {"name": "Acme Ltd", "slug": "acme", "status": "active"}
    for prefix, initial in (("quota", int(tenant is not None)), ("overrides", 0), ("memberships", 0), ("api_keys", 0)):
        values |= {f"{prefix}-TOTAL_FORMS": int(prefix == "quota"), f"{prefix}-INITIAL_FORMS": initial}
    for name in services.quota_fields():
        number = getattr(quota, name)
        values[f"quota-0-{name}"] = "" if number is None else number
    if tenant:
        values |= {"quota-0-id": quota.pk, "quota-0-tenant": tenant.pk}
    return values | changes


def text(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def test_a_tenant_added_with_untouched_defaults_has_its_quota(admin_client: Client) -> None:
    assert 'name="quota-0-max_concurrent_sessions" value="10"' in text(admin_client, reverse(ADD))
    assert admin_client.post(reverse(ADD), form()).status_code == 302
    assert Tenant.objects.get(slug="acme").quota.max_concurrent_sessions == 10


def test_a_tenant_cannot_be_added_without_its_quota(admin_client: Client) -> None:
    response = admin_client.post(reverse(ADD), form() | {"quota-TOTAL_FORMS": 0})
    assert response.status_code == 200
    assert not Tenant.objects.exists()


def test_raising_the_limit_in_the_form_raises_it(admin_client: Client, acme: Tenant) -> None:
    assert admin_client.post(page(acme), form(acme, **{"quota-0-max_concurrent_sessions": "11"})).status_code == 302
    assert Quota.objects.get(tenant=acme).max_concurrent_sessions == 11
    assert admin_client.post(page(acme), form(acme, **{"quota-0-max_concurrent_sessions": ""})).status_code == 302
    assert Quota.objects.get(tenant=acme).max_concurrent_sessions is None


@pytest.mark.parametrize(("field", "value"), [("weight", "0"), ("priority", "10"), ("reserved", "-1"), ("grace_s", "")])
def test_a_value_that_the_database_would_refuse_is_refused_in_the_form(admin_client: Client, acme: Tenant, field: str, value: str) -> None:
    response = admin_client.post(page(acme), form(acme, **{f"quota-0-{field}": value}))
    assert response.status_code == 200
    assert "errorlist" in response.content.decode()


def test_a_slug_of_another_form_is_refused_in_the_form(admin_client: Client) -> None:
    assert "lower-case letters" in admin_client.post(reverse(ADD), form(slug="Acme")).content.decode()
    assert not Tenant.objects.exists()


def test_the_slug_of_a_tenant_stays(admin_client: Client, acme: Tenant) -> None:
    assert admin_client.post(page(acme), form(acme, slug="other")).status_code == 302
    assert Tenant.objects.get().slug == "acme"


def test_a_member_is_added_once(admin_client: Client, admin_user: User, acme: Tenant) -> None:
    member = {"memberships-TOTAL_FORMS": 1, "memberships-0-tenant": acme.pk, "memberships-0-user": admin_user.pk}
    assert admin_client.post(page(acme), form(acme, **member)).status_code == 302
    assert Membership.objects.get().user == admin_user
    assert "is a member already" in admin_client.post(page(acme), form(acme, **member)).content.decode()
    assert Membership.objects.count() == 1


def test_suspend_and_activate_act_on_what_was_selected(admin_client: Client, acme: Tenant) -> None:
    other = services.create_tenant(slug="other")
    response = admin_client.post(reverse(LIST), {"action": "suspend", "_selected_action": [acme.pk]}, follow=True)
    assert "Suspended: acme." in response.content.decode()
    assert [Tenant.objects.get(pk=each.pk).suspended for each in (acme, other)] == [True, False]
    response = admin_client.post(reverse(LIST), {"action": "activate", "_selected_action": [acme.pk, other.pk]}, follow=True)
    assert "Activated: acme." in response.content.decode()
    assert [each.get_change_message() for each in LogEntry.objects.order_by("id")] == ["Suspended.", "Activated."]


# --- API keys --------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_by_the_page_that_issues_it(admin_client: Client, acme: Tenant) -> None:
    assert page(acme, "issue_api_key") in text(admin_client, page(acme))
    response = admin_client.post(page(acme, "issue_api_key"), {"name": "web"})
    shown = re.search(r"vk_[0-9a-f]{12}_[\w-]{43}", response.content.decode())
    assert shown
    assert services.authenticate_api_key(shown[0]) == acme
    assert "no-store" in response["Cache-Control"]
    for address in (page(acme), page(acme, "issue_api_key"), reverse("admin:index"), page(acme, "history")):
        assert shown[0] not in text(admin_client, address)
    kept = repr([dict(admin_client.session), admin_client.cookies, list(LogEntry.objects.values())])
    assert shown[0] not in kept


def test_a_form_of_the_tenant_changes_no_key(admin_client: Client, acme: Tenant) -> None:
    services.issue_api_key(tenant=acme, name="web")
    before = ApiKey.objects.values().get()
    forged = {"TOTAL_FORMS": 1, "INITIAL_FORMS": 1, "0-id": before["id"], "0-name": "x", "0-hash": "0" * 64, "0-DELETE": "on"}
    values = form(acme, **{f"api_keys-{name}": value for name, value in forged.items()})
    assert admin_client.post(page(acme), values).status_code == 302
    assert ApiKey.objects.values().get() == before


def test_a_key_is_revoked_after_a_question(admin_client: Client, acme: Tenant) -> None:
    plaintext = services.issue_api_key(tenant=acme, name="web")
    key = ApiKey.objects.get()
    address = page(acme, "revoke_api_key", key.pk)
    assert address in text(admin_client, page(acme))
    assert "cannot be undone" in text(admin_client, address)
    assert services.authenticate_api_key(plaintext) == acme
    assert "is revoked" in admin_client.post(address, follow=True).content.decode()
    with pytest.raises(InvalidApiKey):
        services.authenticate_api_key(plaintext)
    assert "was revoked already" in admin_client.post(address, follow=True).content.decode()
    assert address not in text(admin_client, page(acme))


def test_a_key_is_not_revoked_by_way_of_another_tenant(admin_client: Client, acme: Tenant) -> None:
    services.issue_api_key(tenant=acme)
    other = services.create_tenant(slug="other")
    assert admin_client.post(page(other, "revoke_api_key", ApiKey.objects.get().pk)).status_code == 404
    assert ApiKey.objects.get().revoked_at is None


def test_staff_who_may_only_edit_tenants_issue_and_revoke_no_keys(client: Client, acme: Tenant) -> None:
    services.issue_api_key(tenant=acme)
    staff = User.objects.create(username="staff", is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename__in=["view_tenant", "change_tenant"]))
    client.force_login(staff)
    assert "Issue API key" not in text(client, page(acme))
    assert client.post(page(acme, "issue_api_key"), {"name": ""}).status_code == 403
    assert client.post(page(acme, "revoke_api_key", ApiKey.objects.get().pk)).status_code == 403
    assert ApiKey.objects.filter(revoked_at=None).count() == 1


def test_who_may_see_keys_but_not_revoke_them_sees_no_way_to(client: Client, acme: Tenant) -> None:
    services.issue_api_key(tenant=acme)
    staff = User.objects.create(username="staff", is_staff=True)
    staff.user_permissions.set(Permission.objects.filter(codename__in=["view_tenant", "view_apikey"]))
    client.force_login(staff)
    shown = text(client, page(acme))
    assert str(ApiKey.objects.get()) in shown
    assert "revoke-api-key" not in shown


def test_nobody_but_staff_comes_near(client: Client, acme: Tenant) -> None:
    client.force_login(User.objects.create(username="ann"))
    for address in (reverse(LIST), page(acme), page(acme, "issue_api_key"), page(acme, "revoke_api_key", 1)):
        assert client.get(address).status_code == 302


# --- what other apps add, and deletion -------------------------------------------------------------------------------


@pytest.fixture
def live_use() -> Iterator[None]:
    def render(tenant: Tenant) -> SafeString:
        return format_html("<b>{} uses 3 of {}</b>", tenant.slug, tenant.quota.max_concurrent_sessions)

    def validate(quota: Quota) -> None:
        if quota.reserved > 100:
            raise ValidationError("No backend has room for this reservation.")

    extensions.register_panel("Test panel", render)
    extensions.register_quota_validator(validate)
    yield
    extensions.unregister_panel("Test panel")
    extensions.unregister_quota_validator(validate)


@pytest.mark.usefixtures("live_use")
def test_a_panel_of_another_app_stands_beside_the_quota(admin_client: Client, acme: Tenant) -> None:
    shown = text(admin_client, page(acme))
    assert "Test panel" in shown
    assert "<b>acme uses 3 of 10</b>" in shown
    assert "Test panel" not in text(admin_client, reverse(ADD))


@pytest.mark.usefixtures("live_use")
def test_what_another_app_refuses_is_said_in_the_form(admin_client: Client, acme: Tenant) -> None:
    for address, values in ((page(acme), form(acme)), (reverse(ADD), form(slug="new"))):
        response = admin_client.post(address, values | {"quota-0-reserved": "101"})
        assert "No backend has room for this reservation." in response.content.decode()
    assert Tenant.objects.get().quota.reserved == 0


def give_history(tenant: Tenant) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('voice.ledger', 'on', true)")
        Session.objects.create(tenant=tenant, user="ann", state="rejected", attempted_at=timezone.now())
        cursor.execute("SELECT set_config('voice.ledger', '', true)")


def test_a_tenant_without_history_is_deleted_with_all_that_is_its_own(admin_client: Client, acme: Tenant) -> None:
    services.issue_api_key(tenant=acme)
    assert admin_client.post(page(acme, "delete"), {"post": "yes"}).status_code == 302
    assert not (Tenant.objects.exists() or Quota.objects.exists() or ApiKey.objects.exists())


def test_a_tenant_with_history_is_not_deleted_and_the_page_says_why(admin_client: Client, acme: Tenant) -> None:
    give_history(acme)
    sentence = "sessions of acme: a tenant with history is kept; suspend it instead"
    assert sentence in text(admin_client, page(acme, "delete"))
    assert sentence in admin_client.post(page(acme, "delete"), {"post": "yes"}).content.decode()
    selected = {"action": "delete_selected", "_selected_action": [acme.pk], "post": "yes"}
    assert sentence in admin_client.post(reverse(LIST), selected).content.decode()
    assert Tenant.objects.get() == acme


def test_the_list_shows_the_limit_of_each_tenant(admin_client: Client, acme: Tenant) -> None:
    services.set_quota(slug="acme", values={"max_concurrent_sessions": ""})
    Tenant.objects.create(slug="bare", name="Without a quota")
    shown = text(admin_client, reverse(LIST))
    assert "unlimited" in shown
    assert "no quota" in shown
