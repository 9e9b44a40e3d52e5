"""One session's page: facts, the limit vector, and every change with its reason."""

import re
from uuid import UUID

from django.test import Client
from django.utils import timezone

from sessions_app.domain.operations import Activate, End, Resume, Suspend
from sessions_app.domain.states import Reason
from sessions_app.models import Node
from sessions_app.services.ledger import Ledger
from tests.views.conftest import text
from tests.world import NODE, admit, make_backend, make_tenant


def words(client: Client, session_id: UUID) -> str:
    page = re.sub(r"<[^>]*>", " ", text(client, f"/ops/sessions/{session_id}/"))
    return re.sub(r"\s+", " ", page)


def test_a_life_is_told_from_the_attempt_to_the_end(ledger: Ledger, staff: Client) -> None:
    make_backend("alder")
    Node.objects.create(id=NODE, name="web-1:4711", pid=4711, started_at=timezone.now(), heartbeat_at=timezone.now())
    asked = admit(make_tenant(), "ann")
    session_id = asked.attempt.session_id
    ledger.apply([asked])
    for operation in (
        Activate(session_id, NODE),
        Suspend(session_id, NODE),
        Resume(session_id, NODE),
        End(session_id, Reason.TERMINATED, "Asked by support.", actor="olga"),
    ):
        assert ledger.apply([operation]) == [True]
    items = re.findall(r"<li>(.*?)</li>", text(staff, f"/ops/sessions/{session_id}/"), re.DOTALL)
    changes = [re.findall(r'class="badge [^"]*">(\w+)<', item) for item in items]
    assert changes == [["starting"], ["starting", "active"], ["active", "reconnecting"], ["reconnecting", "active"], ["active", "ended"]]
    page = words(staff, session_id)
    timeline = page.partition("Timeline")[2]
    assert "terminated An operator ended the session." in timeline
    assert "Asked by support." in timeline
    assert "by olga" in timeline
    assert "node web-1:4711" in timeline
    assert "backend alder" in timeline
    assert "acme" in page
    assert "ann" in page


def test_a_refusal_shows_which_limit_was_full(ledger: Ledger, staff: Client) -> None:
    make_backend(cap=7)
    tenant = make_tenant(max_concurrent_sessions=1)
    first, second = admit(tenant), admit(tenant)
    ledger.apply([first, second])
    page = words(staff, second.attempt.session_id)
    assert "Tenant (full) 1 1" in page
    assert "Backend 1 7" in page
    assert "Platform 1 unlimited" in page
    assert "User 1 unlimited" in page
    assert "session_limit_exceeded Your organisation has as many sessions as it may have at once." in page


def test_a_session_that_is_not_there_is_not_found(staff: Client, ledger: Ledger) -> None:
    assert staff.get(f"/ops/sessions/{UUID(int=7)}/").status_code == 404
    assert staff.get("/ops/sessions/7/").status_code == 404


def test_what_people_named_themselves_is_text_and_not_markup(ledger: Ledger, staff: Client) -> None:
    make_backend()
    asked = admit(make_tenant(), "<script>alert(1)</script>")
    ledger.apply([asked])
    for address in ("/ops/sessions/", f"/ops/sessions/{asked.attempt.session_id}/"):
        assert "<script>alert" not in text(staff, address)
