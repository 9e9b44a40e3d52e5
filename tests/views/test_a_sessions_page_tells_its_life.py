"""One session's page: facts, the limit vector, and every change with its reason."""

import re
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import psycopg
from django.test import Client
from django.utils import timezone

from sessions_app.domain.operations import Activate, End, Resume, Suspend
from sessions_app.domain.states import Reason
from sessions_app.models import Node, Session, SessionEvent
from sessions_app.selectors import timeline
from sessions_app.services.ledger import Ledger
from sessions_app.views import present
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
    assert ledger.apply([Activate(session_id, NODE), Suspend(session_id, NODE)]) == [True, True]
    ledger.apply([Resume(session_id, NODE, asked.attempt.tenant_id, "ann", shown=1)])
    assert ledger.apply([End(session_id, Reason.TERMINATED, "Asked by support.", actor="olga")]) == [True]
    items = re.findall(r"<li>(.*?)</li>", text(staff, f"/ops/sessions/{session_id}/"), re.DOTALL)
    changes = [re.findall(r'class="badge [^"]*">(\w+)<', item) for item in items]
    assert changes == [["starting"], ["starting", "active"], ["active", "reconnecting"], ["reconnecting", "active"], ["active", "ended"]]
    page = words(staff, session_id)
    told = page.partition("Timeline")[2]
    assert "terminated An operator ended the session." in told
    assert "Asked by support." in told
    assert "by olga" in told
    assert "node web-1:4711" in told
    assert "backend alder" in told
    assert "acme" in page
    assert "ann" in page
    assert "Ended by olga Detail Asked by support." in page


def test_a_gap_and_a_take_over_are_told(ledger: Ledger, staff: Client, sql: psycopg.Connection) -> None:
    make_backend()
    other = UUID(int=2)
    now = timezone.now()
    for node_id, name in ((NODE, "web-1:4711"), (other, "web-2:4712")):
        Node.objects.create(id=node_id, name=name, pid=4711, started_at=now, heartbeat_at=now)
    asked = admit(make_tenant(), "ann")
    session_id, tenant_id = asked.attempt.session_id, asked.attempt.tenant_id
    ledger.apply([asked])
    dropped = now - timedelta(seconds=4)
    for operation in (
        Activate(session_id, NODE),
        Suspend(session_id, NODE, Reason.NODE_LOST, since=dropped),
        Resume(session_id, other, tenant_id, "ann"),
        Resume(session_id, other, tenant_id, "ann", shown=2),
        Resume(session_id, other, tenant_id, "ann", shown=1),
    ):
        ledger.apply([operation])
    told = words(staff, session_id).partition("Timeline")[2]
    assert re.search(r"Taken over from node web-1:4711\. The client is back after \d+\.\d s\. Connection 2 of this session\.", told)
    assert "A newer connection of the client took the place of the one before. Connection 3 of this session." in told
    assert "A resume token that is good no more was shown, and refused. It was that of connection 1; the newest is 3." in told


def test_a_gap_that_the_ledger_did_not_measure_is_that_between_its_events() -> None:
    attempt = timezone.now()
    session = Session(id=UUID(int=1), attempted_at=attempt, state="active")
    lost = SessionEvent(old="active", new="reconnecting", at=attempt + timedelta(seconds=1), seq=1)
    back = SessionEvent(old="reconnecting", new="active", at=attempt + timedelta(seconds=3.5), seq=2)
    entry = timeline.entry(lost, back, session, timeline.Names({}, {}))
    assert (entry.gap_ms, entry.after_ms) == (2500, 3500)


def test_what_the_client_said_of_itself_and_the_trace_are_shown(ledger: Ledger, staff: Client) -> None:
    make_backend()
    asked = admit(make_tenant())
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    ledger.apply([replace(asked, metadata={"shop": "<b>14</b>", "who": {"name": "Zoë"}}, trace_id=trace)])
    body = text(staff, f"/ops/sessions/{asked.attempt.session_id}/")
    assert "&quot;shop&quot;: &quot;&lt;b&gt;14&lt;/b&gt;&quot;" in body
    assert "Zoë" in body
    assert f"Trace {trace}" in words(staff, asked.attempt.session_id)


def test_metadata_that_is_long_is_cut() -> None:
    shown = present.metadata({str(number): [0] * 50 for number in range(100)})
    assert len(shown) < present.MAX_METADATA_CHARS + 50
    assert shown.endswith("… (cut here)")
    assert present.metadata({}) == ""


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
