"""The button on a session's page and the admin's action: who may, what they leave, what people are told."""

import re
from uuid import UUID

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.models import EndRequest
from sessions_app.services import ending
from sessions_app.services.ledger import Ledger
from tests.views.conftest import text
from tests.world import admit, make_backend, make_tenant

LIST = "admin:sessions_app_session_changelist"


@pytest.fixture
def live(ledger: Ledger) -> UUID:
    make_backend()
    asked = admit(make_tenant("globex"))
    ledger.apply([asked])
    return asked.attempt.session_id


@pytest.fixture
def operator(staff: Client) -> Client:
    """Staff, and allowed to end sessions."""
    User.objects.get(username="ops").user_permissions.add(
        Permission.objects.get(content_type__app_label="sessions_app", codename="change_session")
    )
    return staff


def page(session_id: UUID) -> str:
    return f"/ops/sessions/{session_id}/"


def told(client: Client, session_id: UUID) -> list[str]:
    """What the page says on top."""
    notices = re.findall(r'class="notice[^>]*>(.*?)</p>', text(client, page(session_id)), re.DOTALL)
    return [re.sub(r"<[^>]*>", "", each) for each in notices]


# --- the button ----------------------------------------------------------------------------------------------------------
def test_the_button_asks_for_the_end_and_the_page_says_so(operator: Client, live: UUID) -> None:
    assert "End this session" in text(operator, page(live))
    answer = operator.post(f"{page(live)}end/", {"detail": "  <b>Asked</b> by support. "})
    assert (answer.status_code, answer["Location"]) == (302, page(live))
    request = EndRequest.objects.get()
    assert (request.session_id, request.actor, request.detail) == (live, "ops", "<b>Asked</b> by support.")
    body = text(operator, page(live))
    assert "The session is being ended." in body
    assert "An end was asked for by ops at" in body
    assert "&lt;b&gt;Asked&lt;/b&gt; by support." in body
    assert "<b>Asked" not in body
    assert "End this session" not in body
    assert 'http-equiv="refresh"' in body


def test_asking_twice_or_too_late_is_told(operator: Client, live: UUID, ledger: Ledger) -> None:
    operator.post(f"{page(live)}end/")
    operator.post(f"{page(live)}end/", {"detail": "again"})
    assert "Somebody asked for its end before you did." in told(operator, live)
    ledger.apply([End(live, Reason.TERMINATED, "Asked by support.", actor="olga")])
    operator.post(f"{page(live)}end/")
    assert told(operator, live) == ["The session was over already."]
    body = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text(operator, page(live))))
    assert "Ended by olga Detail Asked by support." in body
    assert "End this session" not in body


def test_a_reason_that_is_too_long_asks_for_nothing(operator: Client, live: UUID) -> None:
    for detail in ("x" * 301, "a\x00b"):
        operator.post(f"{page(live)}end/", {"detail": detail})
        assert "Nothing was asked for" in told(operator, live)[0]
    assert not EndRequest.objects.exists()


def test_a_session_that_is_not_there_cannot_be_ended(operator: Client, committed_db: None) -> None:
    assert operator.post(f"{page(UUID(int=7))}end/").status_code == 404


def test_outsiders_and_members_are_told_that_there_is_nothing(outsider: Client, member: Client, live: UUID) -> None:
    for client in (outsider, member):
        assert client.post(f"{page(live)}end/").status_code == 404
        assert client.get(f"{page(live)}end/").status_code == 404
    assert not EndRequest.objects.exists()


def test_strangers_are_sent_to_the_login(stranger: Client, live: UUID) -> None:
    answer = stranger.post(f"{page(live)}end/")
    assert (answer.status_code, answer["Location"].split("?")[0]) == (302, "/accounts/login/")
    assert not EndRequest.objects.exists()


def test_staff_without_the_permission_may_only_look(staff: Client, live: UUID) -> None:
    assert "End this session" not in text(staff, page(live))
    staff.post(f"{page(live)}end/")
    assert "You may not end sessions" in told(staff, live)[0]
    assert not EndRequest.objects.exists()


def test_a_form_from_elsewhere_is_refused(operator: Client, live: UUID) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="ops"))
    assert strict.post(f"{page(live)}end/").status_code == 403
    assert not EndRequest.objects.exists()


def test_only_a_post_asks(operator: Client, live: UUID) -> None:
    assert operator.get(f"{page(live)}end/")["Location"] == page(live)
    assert not EndRequest.objects.exists()


# --- the admin's action ----------------------------------------------------------------------------------------------------
def action(*session_ids: UUID, **more: str) -> dict[str, object]:
    return {"action": "end_selected", "_selected_action": [str(each) for each in session_ids], **more}


def test_the_action_asks_why_and_then_for_the_ends(operator: Client, live: UUID, ledger: Ledger) -> None:
    over = admit(make_tenant("initech"))
    ledger.apply([over])
    ledger.apply([End(over.attempt.session_id, Reason.COMPLETED)])
    both = (live, over.attempt.session_id)
    confirm = operator.post(reverse(LIST), action(*both))
    assert confirm.status_code == 200
    assert "1 of the 2 selected sessions is not over." in re.sub(r"\s+", " ", confirm.content.decode())
    assert not EndRequest.objects.exists()
    done = operator.post(reverse(LIST), action(*both, confirmed="yes", detail="Night shift"), follow=True)
    assert "Asked to end: 1. Over already: 1." in done.content.decode()
    request = EndRequest.objects.get()
    assert (request.session_id, request.actor, request.detail) == (live, "ops", "Night shift")


def test_the_action_has_nothing_to_ask_where_all_are_over(operator: Client, live: UUID, ledger: Ledger) -> None:
    ledger.apply([End(live, Reason.COMPLETED)])
    assert "Nothing to do: all of them are over." in operator.post(reverse(LIST), action(live), follow=True).content.decode()


def test_more_than_can_be_asked_at_once_are_refused_whole(operator: Client, live: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "MAX_AT_ONCE", 0)
    assert "At most 0 at once: none was asked to end." in operator.post(reverse(LIST), action(live), follow=True).content.decode()


def test_the_action_is_there_for_those_who_may(operator: Client, admin: Client, live: UUID) -> None:
    for client in (operator, admin):
        assert "End the selected sessions" in text(client, reverse(LIST))


def test_who_may_only_look_gets_no_action(staff: Client, live: UUID) -> None:
    User.objects.get(username="ops").user_permissions.add(
        Permission.objects.get(content_type__app_label="sessions_app", codename="view_session")
    )
    assert "End the selected sessions" not in text(staff, reverse(LIST))
    staff.post(reverse(LIST), action(live, confirmed="yes"))
    assert not EndRequest.objects.exists()


def test_the_permission_lets_nobody_edit_a_session(operator: Client, live: UUID) -> None:
    address = reverse("admin:sessions_app_session_change", args=[live])
    assert operator.post(address, {"state": "ended"}).status_code == 403
    assert 'name="_save"' not in text(operator, address)
