"""Temporary changes of a limit: made in the admin or by command, in force by themselves, over by themselves."""

import os
import pwd
import re
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from sessions_app.models import LimitChange
from sessions_app.services.ledger import Ledger
from tenants import selectors, services
from tenants.models import OVERRIDABLE, Override, Tenant
from tests.tenants.test_admin_edits_tenants import form, page
from tests.world import admit, admitted, make_backend, make_tenant

FIELD = "max_concurrent_sessions"
ME = f"command:{pwd.getpwuid(os.getuid()).pw_name}"


@pytest.fixture
def admin_client(committed_db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("olga"))
    return client


def run(*words: str) -> str:
    out = StringIO()
    call_command("add_override", *words, stdout=out)
    return out.getvalue()


def refusal(*words: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def text(client: Client, address: str) -> str:
    response = client.get(address)
    assert response.status_code == 200
    return response.content.decode()


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def override(tenant: Tenant, *, starts: float = -60, ends: float = 3600, change: int = 20, field: str = FIELD, **values: Any) -> Override:
    """One that starts and ends so many seconds from now."""
    now = timezone.now()
    return Override.objects.create(
        tenant=tenant, field=field, change=change, starts_at=now + timedelta(seconds=starts), ends_at=now + timedelta(seconds=ends),
        note="campaign", **values,
    )  # fmt: skip


def posted(tenant: Tenant, *rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the browser would post with these rows of overrides, the ones that are there first."""
    values = form(tenant, **{"overrides-TOTAL_FORMS": len(rows), "overrides-INITIAL_FORMS": sum("id" in row for row in rows)})
    for index, row in enumerate(rows):
        for name, value in row.items():
            values[f"overrides-{index}-{name}"] = f"{value:%Y-%m-%dT%H:%M:%S}" if isinstance(value, datetime) else value
        values[f"overrides-{index}-tenant"] = tenant.pk
    return values | changes


def row(**values: Any) -> dict[str, Any]:
    now = timezone.now()
    return {"field": FIELD, "change": "20", "starts_at": now, "ends_at": now + timedelta(days=3), "note": "campaign"} | values


def test_the_command_adds_one_that_acts_on_the_next_attempt(ledger: Ledger) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=0)
    assert not admitted(ledger.apply([admit(tenant)])[0]).verdict.admitted
    told = run("acme", f"{FIELD}=+20", "--until", "2999-11-29T18:00", "--reason", "campaign")
    assert re.fullmatch(rf"\+20 {FIELD} for acme from [\d: -]{{16}} to 2999-11-29 18:00 UTC\. In force now: (.*)\.\n", told)
    assert told.endswith("In force now: 0 + 20 until Fri 2999-11-29 18:00 UTC = 20.\n")
    assert admitted(ledger.apply([admit(tenant)])[0]).verdict.admitted
    made = Override.objects.get()
    assert (made.created_by, made.note) == (ME, "campaign")
    change = LimitChange.objects.order_by("-seq")[0]
    assert (change.source, change.actor, change.note) == ("tenants_override", ME, "campaign")


def test_the_command_knows_zones_and_a_beginning(committed_db: None) -> None:
    make_tenant()
    told = run("acme", "burst=5", "--from", "2998-11-27T12:00+02:00", "--until", "2998-11-27T18:00Z", "--reason", "x")
    assert told == "+5 burst for acme from 2998-11-27 10:00 to 2998-11-27 18:00 UTC. In force now: 0.\n"
    made = Override.objects.get()
    assert (made.starts_at, made.ends_at) == (datetime(2998, 11, 27, 10, tzinfo=UTC), datetime(2998, 11, 27, 18, tzinfo=UTC))


def test_the_command_refuses_with_a_sentence_and_adds_nothing(committed_db: None) -> None:
    make_tenant()
    end, why = ["--until", "2999-01-01"], ["--reason", "x"]
    assert refusal("nobody", f"{FIELD}=1", *end, *why) == "There is no tenant with the slug 'nobody'."
    for wrong in ("weight=1", FIELD, f"{FIELD}=", f"{FIELD}=many", f"{FIELD}=+-2", f"{FIELD}={'9' * 30}"):
        assert refusal("acme", wrong, *end, *why).startswith(f"{wrong!r} is not FIELD=CHANGE, as {FIELD}=+20; the fields are ")
    assert refusal("acme", f"{FIELD}=0", *end, *why).startswith("change: A change of 0 changes nothing")
    assert refusal("acme", f"{FIELD}=1", "--until", "2001-01-01", *why) == "An override ends after it starts."
    assert "is over already" in refusal("acme", f"{FIELD}=1", "--from", "2000-01-01", "--until", "2001-01-01", *why)
    assert refusal("acme", f"{FIELD}=1", "--until", "Friday", *why).startswith("'Friday' is no time")
    assert refusal("acme", f"{FIELD}=1", "--until", "0001-01-01T00:00+14:00", *why).startswith("'0001-01-01T00:00+14:00' is no time")
    assert refusal("acme", f"{FIELD}=1", *end, "--reason", "x" * 201) == "The reason has 201 characters; at most 200 are kept."
    assert "note" in refusal("acme", f"{FIELD}=1", *end, "--reason", "  ")
    assert refusal("acme", f"{FIELD}=1", *end) == "Error: the following arguments are required: --reason"
    assert not Override.objects.exists()


def test_limits_in_force_add_up_and_never_go_below_zero(committed_db: None) -> None:
    tenant = make_tenant(burst=2)
    override(tenant, change=5, ends=7200)
    override(tenant, change=20)
    override(tenant, change=-7, field="burst")
    override(tenant, change=3, field="max_sessions_per_user")
    override(tenant, change=100, starts=60)
    override(tenant, change=100, starts=-60, ends=-1)
    limits = selectors.limits_in_force(selectors.tenant_by_slug("acme").quota)
    assert set(limits) == set(OVERRIDABLE)
    assert (limits[FIELD].value, limits["burst"].value, limits["max_sessions_per_user"].value) == (35, 0, None)
    assert re.fullmatch(r"10 \+ 20 until \w{3} [\d :-]{16} UTC \+ 5 until \w{3} [\d :-]{16} UTC = 35", str(limits[FIELD]))
    assert re.fullmatch(r"2 − 7 until .* UTC = 0", str(limits["burst"]))
    assert str(limits["max_sessions_per_user"]) == "unlimited"


def test_one_is_added_on_the_tenants_page_and_signed(admin_client: Client) -> None:
    acme = make_tenant()
    assert admin_client.post(page(acme), posted(acme, row(), why="As agreed.")).status_code == 302
    made = Override.objects.get()
    assert (made.change, made.created_by, made.note) == (20, "olga", "campaign")
    change = LimitChange.objects.order_by("-seq")[0]
    assert (change.source, change.actor, change.note) == ("tenants_override", "olga", "As agreed.")
    shown = text(admin_client, page(acme))
    assert "in force" in shown
    assert re.search(rf"{FIELD}: 10 \+ 20 until \w{{3}} [\d :-]{{16}} UTC = 30", words(shown))
    assert '<strong id="live-use">0 of 30</strong>' in shown
    assert re.search(r"10 \+ 20 until \w{3} [\d :-]{16} UTC = 30", words(text(admin_client, reverse("admin:tenants_tenant_changelist"))))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"change": "0"}, "A change of 0 changes nothing"),
        ({"note": ""}, "This field is required"),
        ({"change": ""}, "This field is required"),
        ({"starts_at": timezone.now() + timedelta(days=4)}, "An override ends after it starts."),
        ({"starts_at": timezone.now() - timedelta(days=2), "ends_at": timezone.now() - timedelta(days=1)}, "This time is over already."),
        ({"field": "weight"}, "Select a valid choice"),
    ],
)
def test_one_that_makes_no_sense_is_refused_in_the_form(admin_client: Client, values: dict[str, Any], told: str) -> None:
    acme = make_tenant()
    response = admin_client.post(page(acme), posted(acme, row(**values)))
    assert response.status_code == 200
    assert told in response.content.decode()
    assert not Override.objects.exists()


def test_the_page_says_which_are_in_force_coming_and_over(admin_client: Client) -> None:
    acme = make_tenant()
    override(acme)
    override(acme, starts=3600, ends=7200, change=-3)
    override(acme, starts=-7200, ends=-60, change=7)
    override(acme, starts=-30 * 86400, ends=-20 * 86400, change=4711)
    shown = text(admin_client, page(acme))
    assert [shown.count(f">{each}</div>") for each in ("in force", "upcoming", "over")] == [1, 1, 1]
    assert 'value="4711"' not in shown


def test_one_that_is_over_stays_as_it_was_and_one_in_force_is_stopped(admin_client: Client) -> None:
    acme = make_tenant()
    over, now = override(acme, starts=-7200, ends=-60, change=7), override(acme)
    forged = {"id": over.pk, "change": "70", "ends_at": timezone.now() + timedelta(days=9), "field": FIELD, "note": "x", "DELETE": "on"}
    stopped = {"id": now.pk, "DELETE": "on", **row()}
    assert admin_client.post(page(acme), posted(acme, stopped, forged)).status_code == 302
    left = Override.objects.get()
    assert (left.pk, left.change, left.ends_at, left.note) == (over.pk, 7, over.ends_at, "campaign")
    change = LimitChange.objects.order_by("-seq")[0]
    assert (change.source, change.new, change.actor) == ("tenants_override", None, "olga")


def test_the_services_words_are_kept_to_their_lengths(committed_db: None) -> None:
    make_tenant()
    made = services.add_override(
        slug="acme", field="burst", change=1, ends_at=timezone.now() + timedelta(days=1), note="x", actor="a" * 400
    )
    assert len(Override.objects.get(pk=made.pk).created_by) == 150
