"""``/ops/health/``: backends, nodes, stores, worker and beat, and a plain line for what was not seen."""

import re
import uuid
from datetime import timedelta

import psycopg
import pytest
from django.test import Client
from django.utils import timezone

from sessions_app.domain.operations import Activate, Suspend
from sessions_app.models import BackendHealth, Claim, Drift, Node, Room
from sessions_app.selectors import platform_health
from sessions_app.services import inbox, seen
from sessions_app.services.ledger import Ledger
from tests.platform.instance import free_port
from tests.views.conftest import text
from tests.world import NODE, admit, make_backend, make_tenant

PAGE = "/ops/health/"


def words(client: Client) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text(client, PAGE)))


def problems(client: Client) -> list[str]:
    return re.findall(r'class="notice notice-\w+" role="alert">(.*?)</p>', text(client, PAGE))


@pytest.fixture
def well(ledger: Ledger) -> None:
    """A platform whose every part was seen just now."""
    make_backend("alder", cap=7)
    now = timezone.now()
    Node.objects.create(id=NODE, name="web-1:4711", pid=4711, started_at=now - timedelta(hours=3), heartbeat_at=now)
    seen.seen(name=platform_health.WORKER, holder="host:1")
    seen.seen(name=platform_health.BEAT, holder="host:2")


def moved_back(sql: psycopg.Connection, name: str, seconds: int) -> None:
    sql.execute("UPDATE sessions_app_claim SET done_at = done_at - make_interval(secs => %s) WHERE name = %s", (seconds, name))


def test_a_platform_that_is_well_says_so(well: None, staff: Client) -> None:
    page = words(staff)
    assert problems(staff) == []
    assert "Everything that should be at work is." in page
    assert "Valkey answers" in page
    assert re.search(r"Worker at work last seen \d+ s ago host:1 Beat at work last seen \d+ s ago host:2", page)


def test_nodes_are_shown_with_what_they_carry(well: None, ledger: Ledger, staff: Client) -> None:
    asked = [admit(make_tenant()) for _ in range(1)] + [admit(make_tenant("other"))]
    ledger.apply(asked)
    ledger.apply([Activate(each.attempt.session_id, NODE) for each in asked])
    ledger.apply([Suspend(asked[0].attempt.session_id, NODE)])
    page = words(staff)
    assert re.search(r"web-1:4711 up \d+ s ago 2 \(1 reconnecting\) 3 h 0 min ago", page)
    assert "alder (loopback) healthy" in page
    assert "2 of 7" in page


def test_who_was_not_seen_for_a_minute_has_a_line(well: None, staff: Client, sql: psycopg.Connection) -> None:
    moved_back(sql, platform_health.WORKER, 65)
    (line,) = problems(staff)
    assert re.fullmatch(
        r"The worker was last seen \d+ s ago: probes and sweeps are done by the web nodes meanwhile; old history is not pruned\.", line
    )
    moved_back(sql, platform_health.BEAT, 300)
    assert re.match(r"Beat was last seen 5 min \d+ s ago: probes", problems(staff)[1])


def test_who_has_never_been_seen_has_a_line(well: None, staff: Client) -> None:
    Claim.objects.all().delete()
    assert [each.partition(":")[0] for each in problems(staff)] == ["The worker has not been seen yet", "Beat has not been seen yet"]


def test_a_sick_backend_and_a_silent_node_have_a_line(well: None, staff: Client) -> None:
    make_backend("birch", healthy=False)
    make_backend("cedar", healthy=False, enabled=False)
    BackendHealth.objects.filter(backend__name="birch").update(error="No answer within 3 s.")
    Node.objects.update(heartbeat_at=timezone.now() - timedelta(seconds=30))
    sick, silent = problems(staff)
    assert sick == "Backend birch is unhealthy: it gets no new sessions."
    assert re.fullmatch(r"Node web-1:4711 was last seen \d+ s ago: its sessions may be resumed elsewhere\.", silent)
    assert "No answer within 3 s." in words(staff)


def test_no_backend_that_could_take_a_session_is_said_plainly(ledger: Ledger, staff: Client) -> None:
    assert "No backend is enabled: every attempt is refused." in problems(staff)
    make_backend(healthy=False)
    assert "No enabled backend is healthy: every attempt is refused." in problems(staff)


def test_valkey_away_is_a_line_and_no_error(well: None, staff: Client, settings: object) -> None:
    settings.VALKEY_URL = f"redis://:s3cret@127.0.0.1:{free_port()}/0"  # type: ignore[attr-defined]
    (line,) = problems(staff)
    assert line.startswith("Valkey does not answer: audio and admission go on")
    assert "s3cret" not in text(staff, PAGE)


def test_nodes_that_are_long_gone_are_left_out(well: None, staff: Client) -> None:
    now = timezone.now()
    for name, state, age in (("stopped-lately", "stopped", 300), ("lost-lately", "lost", 300), ("gone", "stopped", 7200)):
        beat = now - timedelta(seconds=age)
        Node.objects.create(id=uuid.uuid4(), name=name, pid=1, state=state, started_at=beat, heartbeat_at=beat)
    page = words(staff)
    assert "stopped-lately" in page
    assert re.search(r"lost-lately lost 5 min \d+ s ago", page)
    assert "gone" not in page
    assert problems(staff) == []


def test_only_staff_see_it(outsider: Client, stranger: Client, member: Client) -> None:
    assert outsider.get(PAGE).status_code == 404
    assert member.get(PAGE).status_code == 404
    assert stranger.get(PAGE)["Location"] == f"/accounts/login/?next={PAGE}"


def test_the_way_there_is_on_every_page_of_staff_alone(staff: Client, member: Client) -> None:
    assert f'href="{PAGE}"' in text(staff, "/ops/sessions/")
    assert PAGE not in text(member, "/talk/")


def test_webhooks_that_are_refused_wait_or_stay_away_are_told(well: None, ledger: Ledger, staff: Client, sql: psycopg.Connection) -> None:
    options, secrets = {"url": "ws://127.0.0.1:1"}, {"api_key": "key", "api_secret": "secret-of-32-characters-or-even-more"}
    backend = make_backend("rooms", provider="livekit", options=options, secrets=secrets, transports=["webrtc"])
    assert "rooms 0 never 0 nothing amiss" in words(staff)
    asked = admit(make_tenant(), transport="webrtc")
    ledger.apply([asked])
    session_id = asked.attempt.session_id
    made_at = timezone.now() - timedelta(minutes=2)
    Room.objects.create(session_id=session_id, backend=backend, name=f"voice-{session_id}", made_at=made_at)
    assert [each.partition(":")[0] for each in problems(staff)] == ["Backend rooms has told nothing of its rooms"]
    inbox.store([inbox.Event(backend.pk, "EV_1", "room_started", "", session_id, {})])
    inbox.refused(counts={(backend.pk, "wrong_signature"): 3})
    inbox.drifted(kind=Drift.Kind.ORPHAN_ROOM, backend_id=backend.pk, room="another")
    assert problems(staff) == ["3 webhooks for backend rooms were refused in the last hour: wrong_signature."]
    assert re.search(r"rooms 1 \d s ago 1 a room that no session admitted: 1", words(staff))
    sql.execute("UPDATE sessions_app_webhookevent SET received_at = received_at - interval '1 minute'")
    assert re.fullmatch(r"1 webhooks of backend rooms wait, the oldest came \d+ s ago\.", problems(staff)[1])
