"""A backend of a provider that declares its settings is set up field by field, tried before it is saved, and keeps its secrets."""

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from sessions_app.models import Backend, LimitChange
from sessions_app.models.fields import Undecipherable
from tests.views.conftest import text
from tests.views.test_admin_edits_limits_and_only_shows_records import change, errors
from tests.world import make_backend
from voiceplatform.embedded.livekit import LiveKit

ADD = "admin:sessions_app_backend_add"
TRY_NEW = "admin:sessions_app_backend_test_new"
SECRET = "s3cret-of-the-media-server-32-chars"
OPTIONS = {"url": "wss://voice.example.com", "agent_name": "receptionist"}
SECRETS = {"api_key": "key-of-the-server", "api_secret": SECRET}


def form(**changes: Any) -> dict[str, Any]:
    """What the browser would post for a new LiveKit backend."""
    values = {"name": "livekit", "provider": "livekit", "enabled": "on", "cap": "100", "weight": "1", "burst_below": "0.8"}
    values |= {"pipelines": '{"s2s": {}}', "initial-pipelines": '{"s2s": {}}', "access-TOTAL_FORMS": "0", "access-INITIAL_FORMS": "0"}
    values |= {"set_url": "wss://voice.example.com", "set_public_url": "", "set_agent_name": "", "set_echo_agent_url": ""}
    values |= {"set_agent_timeout_s": "10", "set_join_timeout_s": "30", "set_request_timeout_s": "2", "set_departure_timeout_s": "120"}
    values |= {"set_on_agent_absent": "retry", "set_api_key": "key-of-the-server", "set_api_secret": SECRET}
    return values | {"set_previous_api_key": "", "set_previous_api_secret": ""} | changes


def edited(**changes: Any) -> dict[str, Any]:
    """The same for one that is there, whose secrets are left blank."""
    return form(**{"set_api_key": "", "set_api_secret": "", "set_agent_name": "receptionist", **changes})


@pytest.fixture
def backend(committed_db: None) -> Backend:
    return make_backend("livekit", provider="livekit", options=OPTIONS, secrets=SECRETS, transports=["webrtc"])


def again(backend: Backend) -> Backend:
    return Backend.objects.get(pk=backend.pk)


def test_it_is_added_without_json_and_serves_what_its_provider_serves(admin: Client) -> None:
    page = text(admin, reverse(ADD), provider="livekit")
    assert 'name="set_url"' in page
    assert 'name="options"' not in page
    assert not errors(admin.post(reverse(ADD), form(set_agent_timeout_s="25", set_on_agent_absent="other"), follow=True))
    backend = Backend.objects.get()
    assert (backend.provider, backend.transports, backend.secrets) == ("livekit", ["webrtc"], SECRETS)
    # What is left as it was is not kept, so that a better default acts here too.
    assert backend.options == {"url": "wss://voice.example.com", "agent_timeout_s": 25, "on_agent_absent": "other"}


def test_a_provider_without_settings_is_asked_for_as_json(admin: Client) -> None:
    page = text(admin, reverse(ADD), provider="loopback")
    assert 'name="set_url"' not in page
    assert 'name="options"' in page


def test_an_edit_keeps_secrets_and_options_that_the_form_does_not_know(admin: Client, backend: Backend) -> None:
    Backend.objects.update(options={**OPTIONS, "of_a_later_version": 1})
    refused = admin.post(change(backend), edited(set_join_timeout_s="45"))
    assert "unknown option 'of_a_later_version'" in refused.content.decode().replace("&#x27;", "'")
    assert not errors(admin.post(change(backend), edited(cap="7"), follow=True))
    assert (again(backend).cap, again(backend).secrets) == (7, SECRETS)
    assert again(backend).options == {**OPTIONS, "of_a_later_version": 1}


def test_keys_are_changed_with_the_former_ones_beside_them_which_go_by_a_tick(admin: Client, backend: Backend) -> None:
    former = {"set_previous_api_key": SECRETS["api_key"], "set_previous_api_secret": SECRET}
    admin.post(change(backend), edited(set_api_key="new-key", set_api_secret=SECRET[::-1], **former))
    assert again(backend).secrets == {
        "api_key": "new-key",
        "api_secret": SECRET[::-1],
        "previous_api_key": SECRETS["api_key"],
        "previous_api_secret": SECRET,
    }
    admin.post(change(backend), edited(forget=["previous_api_key", "previous_api_secret"]))
    assert again(backend).secrets == {"api_key": "new-key", "api_secret": SECRET[::-1]}


def test_no_secret_is_shown_again_whatever_else_is_wrong(admin: Client, backend: Backend) -> None:
    fresh = SECRET[::-1]
    wrong = admin.post(change(backend), edited(cap="lots", set_api_secret=fresh))
    admin.post(change(backend), edited(set_api_secret=fresh))
    recorded = " ".join(str((each.old, each.new)) for each in LimitChange.objects.all())
    pages = [text(admin, change(backend)), text(admin, reverse("admin:sessions_app_backend_history", args=[backend.pk]))]
    assert "It is set; left blank, it stays." in pages[0]
    for shown in [*pages, wrong.content.decode(), recorded]:
        assert SECRET not in shown
        assert fresh not in shown
        assert "key-of-the-server" not in shown


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"set_url": "voice.example.com"}, "set_url", "must be an address that begins with"),
        ({"set_url": ""}, "set_url", "must be an address that begins with"),
        ({"set_public_url": "ftp://voice.example.com"}, "set_public_url", "must be an address that begins with"),
        ({"set_url": "wss://voice.example.com;script-src"}, "set_url", "must be an address that begins with"),
        ({"set_join_timeout_s": "0"}, "set_join_timeout_s", "greater than or equal to 1"),
        ({"set_previous_api_key": "old"}, "set_previous_api_secret", "is missing"),
        ({"pipelines": '{"mime": {}}'}, "pipelines", "does not serve mime"),
    ],
)
def test_what_is_wrong_is_told_beside_its_field(
    admin: Client, backend: Backend, changes: dict[str, str], field: str, sentence: str
) -> None:
    response = admin.post(change(backend), edited(**changes))
    told = response.context["adminform"].form.errors
    assert list(told) == [field]
    assert sentence in told[field][0]
    assert again(backend).options == OPTIONS


def test_one_whose_secrets_no_key_opens_can_still_be_disabled(admin: Client, backend: Backend, sql: Any) -> None:
    sql.execute("UPDATE sessions_app_backend SET secrets = 'gAAAAbroken'")
    assert "cannot be read with VOICE_SECRET_KEYS" in text(admin, change(backend))
    assert "is missing" in errors(admin.post(change(backend), edited(set_url="wss://other.example.com")))
    values = edited()
    del values["enabled"]
    assert not errors(admin.post(change(backend), values, follow=True))
    assert not again(backend).enabled
    assert isinstance(again(backend).secrets, Undecipherable)


def try_new(client: Client, **changes: Any) -> Any:
    return client.post(reverse(TRY_NEW), form(**changes)).json()


def typed(livekit: LiveKit) -> dict[str, str]:
    return {"set_url": livekit.url, "set_api_key": livekit.key, "set_api_secret": livekit.secret}


def test_a_connection_is_tried_with_what_is_typed_and_nothing_is_saved(admin: Client, livekit: LiveKit) -> None:
    answer = try_new(admin, **typed(livekit), name="")
    assert answer["ok"], answer
    assert answer["sentence"].startswith("It answered in ")
    assert not Backend.objects.exists()


def test_a_connection_that_does_not_work_is_explained_without_the_secret(admin: Client, livekit: LiveKit) -> None:
    wrong_secret = try_new(admin, **{**typed(livekit), "set_api_secret": SECRET})
    nobody_there = try_new(admin, **{**typed(livekit), "set_url": "ws://127.0.0.1:1"})
    not_an_address = try_new(admin, set_url="nonsense")
    missing = try_new(admin, set_api_secret="")
    answers = [wrong_secret, nobody_there, not_an_address, missing]
    assert [each["ok"] for each in answers] == [False] * 4
    assert "settings are wrong" in wrong_secret["sentence"]
    assert "could not be reached" in nobody_there["sentence"]
    assert "must be an address" in not_an_address["sentence"]
    assert "API secret: This field is required." in missing["sentence"]
    assert SECRET not in str(answers)


def test_a_saved_one_is_tried_with_the_secrets_that_it_has(admin: Client, backend: Backend, livekit: LiveKit) -> None:
    address = reverse("admin:sessions_app_backend_test", args=[backend.pk])
    values = edited(set_url=livekit.url)
    assert not admin.post(address, values).json()["ok"]
    backend.secrets = {"api_key": livekit.key, "api_secret": livekit.secret}
    backend.save()
    assert admin.post(address, values).json()["ok"]
    assert again(backend).options == OPTIONS


def test_only_who_may_save_it_may_try_it(staff: Client, stranger: Client, admin: Client, backend: Backend) -> None:
    address = reverse("admin:sessions_app_backend_test", args=[backend.pk])
    User.objects.get(username="ops").user_permissions.add(Permission.objects.get(codename="view_backend"))
    assert staff.post(address, edited()).status_code == 403
    assert staff.post(reverse(TRY_NEW), form()).status_code == 403
    assert stranger.post(address, edited()).status_code == 302
    assert admin.get(address).status_code == 405
    assert admin.post(reverse("admin:sessions_app_backend_test", args=[0]), form()).status_code == 404
    careful = Client(enforce_csrf_checks=True)
    careful.cookies = admin.cookies
    assert careful.post(address, edited()).status_code == 403


def test_who_may_only_look_sees_what_is_set_but_no_field(staff: Client, backend: Backend) -> None:
    User.objects.get(username="ops").user_permissions.add(Permission.objects.get(codename="view_backend"))
    page = text(staff, change(backend))
    assert "wss://voice.example.com" in page
    assert "<input" not in page.partition('id="backend_form"')[2].replace('<input type="hidden"', "")
    assert "Test the connection" not in page
