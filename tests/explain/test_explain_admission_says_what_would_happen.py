"""``manage.py explain_admission``: its verdict is the ledger's, with every reason beside it, and it changes nothing."""

import re
from datetime import timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.models import BackendAccess, BackendHealth, Platform
from sessions_app.selectors import explanation, places, verification
from sessions_app.services.ledger import Ledger
from tenants import services as tenant_services
from tenants.models import Quota, Tenant
from tests.world import admit, admitted, make_backend, make_tenant

TABLES = (
    "session", "sessionevent", "slot", "waiter", "capacity", "ratebucket", "attemptcount", "limitchange", "backend", "claim",
)  # fmt: skip


def said(*words: str) -> str:
    out = StringIO()
    call_command("explain_admission", *words, stdout=out)
    return out.getvalue()


def line(text: str, title: str, name: str) -> str:
    """Return what stands behind a name in a part of the answer."""
    part = next(each for each in text.split("\n\n") if each.startswith(title))
    found = next(each for each in part.splitlines() if each.strip().startswith(name))
    return re.sub(r"\s+", " ", found.strip().removeprefix(name)).strip()


def fill(ledger: Ledger, tenant: Tenant, count: int, user: str = "u") -> None:
    answers = ledger.apply([admit(tenant, f"{user}{n}") for n in range(count)])
    assert all(admitted(each).verdict.admitted or admitted(each).verdict.queued for each in answers)


def test_an_attempt_that_would_be_admitted(ledger: Ledger) -> None:
    make_backend(cap=20)
    tenant = make_tenant()
    fill(ledger, tenant, 3)
    text = said("acme")
    assert text.startswith("An attempt of acme would be admitted on backend loopback, pipeline s2s.\n")
    assert line(text, "Limits", "tenant") == "3 of 10"
    assert line(text, "Limits", "backend loopback") == "3 of 20"
    assert line(text, "Limits", "platform") == "3 of any number"
    assert line(text, "New sessions", "tenant").startswith("597.")
    assert line(text, "Queue", "none") == "allowed by the quota"
    assert line(text, "Backends", "loopback") == "chosen: 3 of 20 in use, weight 1; the only one that could take it"


def test_it_changes_nothing(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    make_backend()
    fill(ledger, make_tenant(max_concurrent_sessions=1, max_queue_length=5), 3)

    def everything() -> list[Any]:
        return [sql.execute(f"SELECT * FROM sessions_app_{each} ORDER BY 1").fetchall() for each in TABLES]

    before = everything()
    said("acme", "--user", "u0")
    assert everything() == before


def test_the_verdict_is_the_ledgers(ledger: Ledger) -> None:
    """Whatever the limits are, the next attempt gets what was said."""
    make_backend("alder", cap=4, weight=3)
    make_backend("beech", cap=4)
    tenant = make_tenant(max_concurrent_sessions=5, burst=2, max_sessions_per_user=2, max_queue_length=2)
    for number in range(12):
        user = f"user{number // 3}"
        told = explanation.explain(slug="acme", user=user)
        got = admitted(ledger.apply([admit(tenant, user)])[0]).verdict
        assert (told.verdict.reason, told.verdict.backend_id, told.verdict.queued, told.verdict.burst, told.verdict.limits) == (
            got.reason, got.backend_id, got.queued, got.burst, got.limits,
        )  # fmt: skip


def test_who_would_wait_is_told_the_place_and_the_expected_wait(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=3, max_queue_length=5)
    asked = [admit(tenant, f"u{n}") for n in range(3)]
    ledger.apply(asked)
    fill(ledger, tenant, 2, "w")
    text = said("acme")
    assert text.startswith("An attempt of acme would wait at place 3 (nobody can say how long) because of session_limit_exceeded.\n")
    assert line(text, "Limits", "tenant") == "3 of 3 (full)"
    assert line(text, "Queue", "2") == "of 5 wait, 60 s at most"
    assert line(text, "Backends", "loopback").endswith("it is not what the attempt fails at")
    for each in asked:
        ledger.apply([End(each.attempt.session_id, Reason.COMPLETED)])
    fill(ledger, tenant, 3, "x")
    assert re.match(r"An attempt of acme would wait at place \d \(expected wait \d+ s\)", said("acme"))


def test_a_user_has_a_limit_and_a_rate_of_its_own(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_sessions_per_user=1, user_sessions_per_minute=1)
    ledger.apply([admit(tenant, "ann")])
    text = said("acme", "--user", "ann")
    assert text.startswith("An attempt of user ann of acme would be refused with user_limit_exceeded: You have as many sessions")
    assert line(text, "Limits", "user") == "1 of 1 (full)"
    assert line(text, "New sessions", "user").startswith("0.")
    assert "would be admitted" in said("acme", "--user", "bob")
    Quota.objects.update(max_sessions_per_user=None)
    text = said("acme", "--user", "ann")
    assert "would be refused with rate_limit_exceeded (user_sessions_per_minute)" in text
    assert re.search(r"It would be told to come back in \d+ s\.", text)


def test_each_backend_says_why_it_is_not_chosen(ledger: Ledger) -> None:
    make_backend("asleep", enabled=False)
    make_backend("broken", healthy=False)
    BackendHealth.objects.filter(backend__name="broken").update(failures=3, error="Connection refused.")
    stale = make_backend("stale")
    BackendHealth.objects.filter(backend=stale).update(last_probe_at=timezone.now() - timedelta(minutes=5))
    make_backend("leaving", draining=True)
    make_backend("typed", pipelines={"stt_tts": {}})
    make_backend("picture", transports=["webrtc"])
    full, good = make_backend("full", cap=0), make_backend("good", cap=10)
    heavy = make_backend("heavy", cap=10, weight=0)
    make_tenant()
    text = said("acme", "--pipeline", "s2s")
    told = {
        name: line(text, "Backends", name) for name in ("asleep", "broken", "stale", "leaving", "typed", "picture", "full", "good", "heavy")
    }
    assert told["asleep"] == "not chosen: disabled"
    assert re.fullmatch(
        r"not chosen: unhealthy: 3 probes failed in a row, the last one at [\d: -]+ UTC \(Connection refused\.\)", told["broken"]
    )
    assert re.fullmatch(r"not chosen: unhealthy: its last probe was at [\d: -]+ UTC, longer than 30 s ago", told["stale"])
    assert told["leaving"] == "not chosen: draining: it takes no new sessions"
    assert told["typed"] == "not chosen: does not serve pipeline s2s (it serves stt_tts)"
    assert told["picture"] == "not chosen: does not serve transport websocket (it serves webrtc)"
    assert told["full"] == "not chosen: full: 0 of 0 in use"
    assert told["good"] == "chosen: 0 of 10 in use, weight 1; the least used for its weight"
    assert told["heavy"] == "not chosen: 0 of 10 in use, weight 0 (last resort); another one comes first"
    assert full.pk
    for backend in (good, heavy):
        BackendAccess.objects.create(tenant=Tenant.objects.get(), backend=backend)
    assert line(said("acme"), "Backends", "typed") == "not chosen: not for this tenant, which may use good, heavy"
    assert line(said("acme", "--backend", "heavy"), "Backends", "good") == "not chosen: not the one that is asked for, heavy"
    assert "authorization_failed" in said("acme", "--backend", "nobody")


def test_reservations_are_kept_for_others_and_for_oneself(ledger: Ledger) -> None:
    make_backend(cap=5)
    acme, birch = make_tenant(max_concurrent_sessions=None), make_tenant("birch", reserved=3)
    fill(ledger, acme, 2)
    text = said("acme")
    assert "would be refused with backend_limit_exceeded" in text
    assert line(text, "Limits", "backend loopback") == "2 of 5, 3 kept for others (full)"
    assert line(text, "Reservations", "loopback") == "3 kept for others"
    assert line(text, "Backends", "loopback") == "not chosen: 2 of 5 in use, and the other 3 are kept for tenants that reserved them"
    fill(ledger, birch, 1)
    text = said("birch")
    assert "would be admitted" in text
    assert line(text, "Reservations", "loopback") == "3 for this tenant (2 unused), 0 kept for others"


def test_a_burst_is_said_to_be_one_and_needs_a_calm_backend(ledger: Ledger) -> None:
    make_backend(cap=10, burst_below=0.5)
    acme, birch = make_tenant(max_concurrent_sessions=1, burst=2), make_tenant("birch")
    fill(ledger, acme, 1)
    text = said("acme")
    assert "pipeline s2s, above the tenant's limit (a burst)." in text
    assert line(text, "Limits", "tenant") == "1 of 1 and 2 more in a burst"
    fill(ledger, birch, 4)
    text = said("acme")
    assert "would be refused with session_limit_exceeded" in text
    assert "but bursts are allowed only below 50% of its cap" in line(text, "Backends", "loopback")


def test_an_override_in_force_is_told_with_its_end_and_its_reason(ledger: Ledger) -> None:
    make_backend()
    fill(ledger, make_tenant(max_concurrent_sessions=1), 1)
    now = timezone.now()
    tenant_services.add_override(
        slug="acme", field="max_concurrent_sessions", change=20, ends_at=now + timedelta(days=2), note="campaign", actor="olga"
    )
    text = said("acme")
    assert "would be admitted" in text
    assert line(text, "Limits", "tenant") == "1 of 21"
    assert re.match(r"1 \+ 20 until \w{3} [\d: -]+ UTC = 21$", line(text, "Overrides", "max_concurrent_sessions"))
    assert line(text, "Overrides", "+20:") == "campaign, by olga"


def test_suspended_tenants_and_a_full_platform(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant()
    Platform.objects.update(max_concurrent_sessions=0)
    text = said("acme")
    assert "would be refused with platform_limit_exceeded" in text
    assert line(text, "Limits", "platform") == "0 of 0 (full)"
    tenant_services.set_status(tenant=tenant, status=Tenant.Status.SUSPENDED)
    assert "would be refused with tenant_suspended: Your organisation's access is suspended.\n" in said("acme")


def test_without_any_backend(committed_db: None) -> None:
    make_tenant()
    text = said("acme")
    assert "would be refused with provider_not_found" in text
    assert line(text, "Backends", "there") == "is none"


def test_who_waits_and_fits_is_let_in_before(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=1, max_queue_length=5)
    fill(ledger, tenant, 3)
    Quota.objects.update(max_concurrent_sessions=5)
    text = said("acme")
    assert text.startswith("An attempt of acme would be admitted on backend loopback, pipeline s2s, after 2 who wait.\n")
    assert line(text, "Limits", "tenant") == "3 of 5"
    assert verification.discrepancies() == []


def test_an_unknown_tenant_is_one_sentence(committed_db: None) -> None:
    with pytest.raises(CommandError, match=r"^There is no tenant with the slug 'nobody'\.$"):
        said("nobody")


def test_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call_command("explain_admission", "--help")
    assert end.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "changes nothing" in told
    assert all(f"--{each}" in told for each in ("user", "backend", "pipeline", "transport"))


def test_places_count_those_of_other_tenants_who_want_the_same_also_under_an_override(ledger: Ledger) -> None:
    make_backend(cap=1)
    acme, birch = make_tenant(max_queue_length=5), make_tenant("birch", max_queue_length=5)
    fill(ledger, acme, 1)
    waiting = [admit(birch, "ann"), admit(acme, "ann"), admit(birch, "bob")]
    for each in waiting:
        assert admitted(ledger.apply([each])[0]).verdict.queued
    tenant_services.add_override(slug="acme", field="burst", change=1, ends_at=timezone.now() + timedelta(days=1), note="x")
    ids = [each.attempt.session_id for each in waiting]
    found = places.of(session_ids=ids)
    assert [found[each].position for each in ids] == [1, 2, 3]
    assert said("acme").startswith("An attempt of acme would wait at place 4 ")
    assert said("birch").startswith("An attempt of birch would wait at place 4 ")
