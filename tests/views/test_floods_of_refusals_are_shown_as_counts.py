"""Attempts that were counted only stand in the history where they belong."""

import re
from datetime import datetime, timedelta
from typing import Any

import psycopg
from django.test import Client, override_settings
from django.utils import timezone

from sessions_app.models import AttemptCount, Session
from sessions_app.services.ledger import Ledger
from tenants.models import Tenant
from tests.views.conftest import text
from tests.world import admit, make_backend, make_tenant

ADDRESS = "/ops/sessions/"


def floods(client: Client, address: str = ADDRESS, **query: str) -> list[str]:
    found = re.search(r'<ul class="floods".*?</ul>', text(client, address, **query), re.DOTALL)
    return re.findall(r"<li>(.*?)</li>", found[0]) if found else []


def count(sql: psycopg.Connection[Any], tenant_id: int, reason: str, second: datetime, number: int) -> None:
    sql.execute(
        "INSERT INTO sessions_app_attemptcount (tenant_id, reason, second, count) VALUES (%s, %s, %s, %s)",
        (tenant_id, reason, second.replace(microsecond=0), number),
    )


@override_settings(VOICE_REFUSALS_RECORDED_PER_S=2)
def test_what_a_flood_was_too_big_to_record_is_told_by_its_number(ledger: Ledger, staff: Client) -> None:
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=0)
    ledger.apply([admit(tenant, f"u{n}") for n in range(50)])
    counted = sum(AttemptCount.objects.values_list("count", flat=True))
    assert counted + Session.objects.count() == 50
    assert counted >= 40
    (sentence,) = floods(staff)
    assert sentence.startswith(f"{counted} further attempts of acme were refused with session_limit_exceeded ")
    assert sentence.endswith("and counted only.")


def test_a_long_pause_parts_two_floods_and_each_reason_is_its_own(staff: Client, acme: Tenant, sql: psycopg.Connection[Any]) -> None:
    now = timezone.now()
    for ago, reason, number in ((300, "queue_full", 5), (299, "queue_full", 6), (10, "queue_full", 7), (9, "rate_limit_exceeded", 8)):
        count(sql, acme.pk, reason, now - timedelta(seconds=ago), number)
    count(sql, 0, "authentication_failed", now - timedelta(seconds=8), 9)
    told = [re.sub(r" (at|between) .*", "", each) for each in floods(staff)]
    assert told == [
        "9 attempts by callers who are not known were refused with authentication_failed",
        "8 further attempts of acme were refused with rate_limit_exceeded",
        "7 further attempts of acme were refused with queue_full",
        "11 further attempts of acme were refused with queue_full",
    ]


def test_they_follow_the_filters(staff: Client, acme: Tenant, sql: psycopg.Connection[Any]) -> None:
    make_tenant("birch")
    now = timezone.now()
    count(sql, acme.pk, "queue_full", now - timedelta(hours=2), 5)
    count(sql, 0, "authentication_failed", now, 6)
    for query, numbers in (
        ({}, ["6", "5"]),
        ({"tenant": "acme"}, ["5"]),
        ({"tenant": "birch"}, []),
        ({"tenant": "nobody"}, []),
        ({"reason": "authentication_failed"}, ["6"]),
        ({"state": "rejected"}, ["6", "5"]),
        ({"state": "active"}, []),
        ({"user": "ann"}, []),
        ({"since": f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"}, ["6"]),
        ({"until": f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"}, ["5"]),
        ({"since": "soon"}, []),
    ):
        assert [each.split()[0] for each in floods(staff, **query)] == numbers, query


def test_each_flood_is_on_the_page_of_its_time_once(ledger: Ledger, staff: Client, sql: psycopg.Connection[Any]) -> None:
    make_backend(cap=None)
    tenant = make_tenant(max_concurrent_sessions=None)
    ledger.apply([admit(tenant) for _ in range(120)])
    with sql.transaction():
        sql.execute("SELECT set_config('voice.ledger', 'on', true)")
        # One a minute, the newest now.
        sql.execute(
            "UPDATE sessions_app_session s SET attempted_at = now() - make_interval(mins => n::int) FROM"
            " (SELECT id, row_number() OVER (ORDER BY id DESC) - 1 AS n FROM sessions_app_session) AS v WHERE v.id = s.id"
        )
    now = timezone.now()
    for minutes, number in ((0, 1), (30, 2), (49, 3), (60, 4), (110, 5), (500, 6)):
        count(sql, tenant.pk, "queue_full", now - timedelta(minutes=minutes), number)
    pages, address = [], ADDRESS
    while address:
        pages.append([each.split()[0] for each in floods(staff, address)])
        link = re.search(r'href="(\?[^"]*)" rel="next"', staff.get(address).content.decode())
        oldest, address = address, ADDRESS + link[1].replace("&amp;", "&") if link else ""
    assert len(pages) == 3
    assert [each for page in pages for each in page] == ["1", "2", "3", "4", "5", "6"]
    assert pages[0][:2] == ["1", "2"]
    assert pages[2] == ["5", "6"]
    back = re.search(r'href="(\?[^"]*)" rel="prev"', staff.get(oldest).content.decode())
    assert back
    assert [each.split()[0] for each in floods(staff, ADDRESS + back[1].replace("&amp;", "&"))] == pages[1]
