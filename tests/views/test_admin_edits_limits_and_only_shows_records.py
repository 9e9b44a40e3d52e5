"""Django admin of the voice sessions: limits are edited, secrets are set and never shown, records are only looked at."""

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from sessions_app.models import Backend, LimitChange, Platform, Session
from sessions_app.models.fields import Undecipherable
from sessions_app.services.ledger import Ledger
from tests.views.conftest import text
from tests.world import admit, make_backend, make_tenant

SECRET = "s3cret-of-the-vendor"
ADD = "admin:sessions_app_backend_add"


def change(backend: Backend) -> str:
    return reverse("admin:sessions_app_backend_change", args=[backend.pk])


def form(**changes: Any) -> dict[str, Any]:
    """What the browser would post for a backend, with what the fields held before where Django asks for that."""
    before = {"pipelines": '{"s2s": {}}', "transports": '["websocket"]', "options": "{}"}
    values = {"name": "loopback", "provider": "loopback", "enabled": "on", "cap": "100", "weight": "1", "burst_below": "0.8", "secrets": ""}
    values |= {"access-TOTAL_FORMS": "0", "access-INITIAL_FORMS": "0"}
    return values | before | {f"initial-{name}": value for name, value in before.items()} | changes


def errors(response: Any) -> str:
    assert response.status_code == 200
    return " ".join(re.findall(r'<ul class="errorlist"[^>]*>(.*?)</ul>', response.content.decode(), re.DOTALL))


def test_a_backend_is_added_and_its_cap_edited_which_is_recorded(admin: Client) -> None:
    assert admin.post(reverse(ADD), form()).status_code == 302
    backend = Backend.objects.get(name="loopback")
    assert admin.post(change(backend), form(cap="")).status_code == 302
    assert admin.post(change(backend), form(cap="3")).status_code == 302
    caps = [each.new["cap"] for each in LimitChange.objects.filter(scope="backend").order_by("seq") if each.new]
    assert caps == [100, None, 3]


def test_secrets_are_set_kept_replaced_and_removed_and_never_shown(admin: Client) -> None:
    backend = make_backend()
    assert "not set" in text(admin, change(backend))
    admin.post(change(backend), form(secrets=f'{{"api_key": "{SECRET}"}}'))
    backend.refresh_from_db()
    assert backend.secrets == {"api_key": SECRET}
    admin.post(change(backend), form(cap="7"))
    backend.refresh_from_db()
    assert (backend.secrets, backend.cap) == ({"api_key": SECRET}, 7)
    wrong = admin.post(change(backend), form(cap="lots", secrets=f'{{"api_key": "{SECRET}-2"}}'))
    pages = [text(admin, change(backend)), text(admin, reverse("admin:sessions_app_backend_changelist")), wrong.content.decode()]
    pages.append(text(admin, reverse("admin:sessions_app_backend_history", args=[backend.pk])))
    assert not [page for page in pages if SECRET in page or "gAAAA" in page]
    assert "set</div>" in pages[0]
    admin.post(change(backend), form(remove_secrets="on"))
    backend.refresh_from_db()
    assert backend.secrets == {}


def test_records_of_a_change_of_secrets_say_no_more_than_that(admin: Client) -> None:
    backend = make_backend()
    admin.post(change(backend), form(secrets=f'{{"api_key": "{SECRET}"}}'))
    entry = LogEntry.objects.get()
    assert "New secrets" in entry.get_change_message()
    recorded = LimitChange.objects.filter(scope="backend").order_by("seq").last()
    assert recorded is not None
    assert recorded.new is not None
    assert recorded.new["secrets"] == "changed"
    assert SECRET not in entry.change_message + str(recorded.old) + str(recorded.new)


@pytest.mark.parametrize("given", [SECRET, f'["{SECRET}"]', f'{{"api_key": ["{SECRET}"]}}', f'{{"api_key": "{SECRET}"'])
def test_secrets_of_a_wrong_form_are_refused_without_being_repeated(admin: Client, given: str) -> None:
    backend = make_backend()
    response = admin.post(change(backend), form(secrets=given))
    assert "Nothing was changed" in errors(response)
    assert SECRET not in response.content.decode()
    backend.refresh_from_db()
    assert backend.secrets == {}


def test_secrets_that_no_key_opens_are_told_and_survive_an_edit(admin: Client, sql: Any) -> None:
    backend = make_backend()
    sql.execute("UPDATE sessions_app_backend SET secrets = 'gAAAAbroken'")
    assert "cannot be read with VOICE_SECRET_KEYS" in text(admin, change(backend))
    assert not errors(admin.post(change(backend), form(draining="on"), follow=True))
    backend.refresh_from_db()
    assert backend.draining
    assert isinstance(backend.secrets, Undecipherable)
    assert backend.secrets.stored == "gAAAAbroken"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"options": '{"delay_ms": "soon"}'}, "delay_ms"),
        ({"options": '{"colour": "red"}'}, "colour"),
        ({"options": "[]"}, "Options are a JSON object"),
        ({"provider": "telepathy"}, "Select a valid choice"),
        ({"pipelines": '{"s2s": {}, "mime": {}}'}, "does not serve mime"),
        ({"pipelines": "[1]"}, "Pipelines are a JSON object"),
        ({"transports": '["webrtc"]'}, "does not serve webrtc"),
        ({"transports": "[1]"}, "Transports are a JSON list"),
        ({"burst_below": "1.5"}, "less than or equal to 1"),
    ],
)
def test_a_backend_that_its_provider_would_not_take_is_refused_in_words(admin: Client, changes: dict[str, str], sentence: str) -> None:
    assert sentence in errors(admin.post(reverse(ADD), form(**changes)))
    assert not Backend.objects.exists()


def test_health_and_live_use_are_shown_beside_the_limits(ledger: Ledger, admin: Client) -> None:
    backend, tenant = make_backend(cap=9), make_tenant(max_concurrent_sessions=4)
    ledger.apply([admit(tenant), admit(tenant)])
    assert "2 of 9" in text(admin, change(backend))
    assert "healthy" in text(admin, change(backend))
    assert "2 of 9" in text(admin, reverse("admin:sessions_app_backend_changelist"))
    page = text(admin, reverse("admin:tenants_tenant_change", args=[tenant.pk]))
    assert '<strong id="live-use">2 of 4</strong>' in page
    assert "/ops/sessions/?tenant=acme" in page


def test_the_platforms_cap_is_one_form(admin: Client) -> None:
    address = reverse("admin:sessions_app_platform_change", args=[1])
    assert admin.get(reverse("admin:sessions_app_platform_changelist"))["Location"] == address
    assert admin.post(address, {"max_concurrent_sessions": "5"}).status_code == 302
    assert Platform.objects.get().max_concurrent_sessions == 5
    assert admin.get(reverse("admin:sessions_app_platform_add")).status_code == 403
    assert admin.post(reverse("admin:sessions_app_platform_delete", args=[1]), {"post": "yes"}).status_code == 403


def test_a_session_can_be_found_and_read_but_not_touched(ledger: Ledger, admin: Client) -> None:
    make_backend()
    asked = admit(make_tenant(), "ann")
    ledger.apply([asked])
    session_id = asked.attempt.session_id
    address = reverse("admin:sessions_app_session_change", args=[session_id])
    page = text(admin, address)
    assert f"/ops/sessions/{session_id}/" in page
    assert "starting" in page
    assert 'name="_save"' not in page
    listing = reverse("admin:sessions_app_session_changelist")
    assert str(session_id) in text(admin, listing, q=str(session_id))
    assert str(session_id) not in text(admin, listing, q="ann")
    assert str(session_id) in text(admin, listing, state="starting")
    assert str(session_id) not in text(admin, listing, reason="completed")
    assert admin.post(address, {"state": "ended"}).status_code == 403
    assert admin.get(reverse("admin:sessions_app_session_add")).status_code == 403
    assert admin.post(reverse("admin:sessions_app_session_delete", args=[session_id]), {"post": "yes"}).status_code == 403
    assert Session.objects.get(pk=session_id).state == "starting"


def test_a_backend_with_history_is_kept_and_says_why(ledger: Ledger, admin: Client) -> None:
    backend = make_backend()
    ledger.apply([admit(make_tenant())])
    address = reverse("admin:sessions_app_backend_delete", args=[backend.pk])
    assert "a backend with history is kept; disable it instead" in text(admin, address)
    assert admin.post(address, {"post": "yes"}).status_code == 200
    assert Backend.objects.filter(pk=backend.pk).exists()


def test_a_backend_without_history_can_be_deleted(admin: Client) -> None:
    backend = make_backend()
    assert admin.post(reverse("admin:sessions_app_backend_delete", args=[backend.pk]), {"post": "yes"}).status_code == 302
    assert not Backend.objects.exists()


def test_who_may_only_look_gets_no_field_for_secrets(staff: Client) -> None:
    backend = make_backend()
    assert staff.get(change(backend)).status_code == 403
    User.objects.get(username="ops").user_permissions.add(Permission.objects.get(codename="view_backend"))
    page = text(staff, change(backend))
    assert "<textarea" not in page
    assert "not set" in page
