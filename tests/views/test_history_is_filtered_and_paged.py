"""The history: for staff alone, filtered, in pages that neither repeat nor skip."""

import re
from typing import Any
from uuid import UUID

import pytest
from django.test import Client

from sessions_app.domain.operations import Admit, End
from sessions_app.domain.states import Reason, State
from sessions_app.models import Session
from sessions_app.selectors import history
from sessions_app.selectors.history import Filters
from sessions_app.services.ledger import Ledger
from tests.views.conftest import text
from tests.world import admit, make_backend, make_tenant

ADDRESS = "/ops/sessions/"


def attempt(ledger: Ledger, *attempts: Admit) -> list[UUID]:
    ledger.apply(attempts)
    return [each.attempt.session_id for each in attempts]


def listed(client: Client, **query: str) -> list[UUID]:
    return [UUID(each) for each in re.findall(rf'href="{ADDRESS}([0-9a-f-]{{36}})/"', text(client, ADDRESS, **query))]


def found(**filters: Any) -> list[UUID]:
    return [each.pk for each in history.page(Filters(**filters)).sessions]


def test_a_stranger_is_sent_to_the_login_with_the_filters_kept(stranger: Client) -> None:
    response = stranger.get(ADDRESS + "?tenant=acme")
    assert (response.status_code, response["Location"]) == (302, "/accounts/login/?next=/ops/sessions/%3Ftenant%3Dacme")


def test_outsiders_and_members_are_told_that_there_is_nothing(outsider: Client, member: Client) -> None:
    for client in (outsider, member):
        assert client.get(ADDRESS).status_code == 404
        assert client.get(f"{ADDRESS}{UUID(int=7)}/").status_code == 404
        assert f'href="{ADDRESS}"' not in client.get(ADDRESS).content.decode()


def test_an_empty_platform_says_so(staff: Client) -> None:
    assert "There are no sessions yet." in text(staff, ADDRESS)


def test_each_filter_finds_what_it_names_and_nothing_else(ledger: Ledger, staff: Client) -> None:
    make_backend("alder")
    make_backend("beech")
    acme, birch = make_tenant("acme"), make_tenant("birch", max_concurrent_sessions=0)
    (early,) = attempt(ledger, admit(acme, "ann", backend="alder"))
    (late,) = attempt(ledger, admit(acme, "bob", backend="beech"))
    (refused,) = attempt(ledger, admit(birch, "ann"))
    ledger.apply([End(early, Reason.COMPLETED)])
    for query, wanted in (
        ({}, [refused, late, early]),
        ({"tenant": "acme"}, [late, early]),
        ({"tenant": "birch"}, [refused]),
        ({"tenant": "nobody"}, []),
        ({"user": "ann"}, [refused, early]),
        ({"tenant": "acme", "user": "ann"}, [early]),
        ({"state": State.STARTING.value}, [late]),
        ({"state": State.REJECTED.value}, [refused]),
        ({"reason": Reason.SESSION_LIMIT.value}, [refused]),
        ({"reason": Reason.COMPLETED.value}, [early]),
        ({"backend": "beech"}, [late]),
    ):
        assert listed(staff, **query) == wanted, query


def test_times_are_from_a_moment_and_before_a_moment(ledger: Ledger, staff: Client) -> None:
    make_backend()
    acme = make_tenant()
    first, second, third = (attempt(ledger, admit(acme))[0] for _ in range(3))
    moment = Session.objects.get(pk=second).attempted_at
    assert found(since=moment) == [third, second]
    assert found(until=moment) == [first]
    assert found(since=moment, until=Session.objects.get(pk=third).attempted_at) == [second]
    assert listed(staff, since="2000-01-01T10:00") == [third, second, first]
    assert listed(staff, until="2000-01-01T10:00:30") == []


@pytest.mark.parametrize("query", [{"since": "soon"}, {"state": "happy"}, {"backend": "nobody"}, {"before": "the last one"}])
def test_a_filter_that_makes_no_sense_finds_nothing_and_is_no_error(staff: Client, query: dict[str, str]) -> None:
    assert listed(staff, **query) == []


def walk(client: Client, address: str, rel: str) -> list[list[UUID]]:
    """Follow the links to the next or previous page, as a person does."""
    pages = []
    while address:
        page = client.get(address).content.decode()
        pages.append([UUID(each) for each in re.findall(rf'href="{ADDRESS}([0-9a-f-]{{36}})/"', page)])
        link = re.search(rf'href="(\?[^"]*)" rel="{rel}"', page)
        address = ADDRESS + link[1].replace("&amp;", "&") if link else ""
    return pages


def test_pages_neither_repeat_nor_skip_in_either_direction_while_new_sessions_come(ledger: Ledger, staff: Client) -> None:
    make_backend(cap=None)
    acme, birch = make_tenant(max_concurrent_sessions=None), make_tenant("birch", max_concurrent_sessions=None)
    ids = attempt(ledger, *(admit(acme) for _ in range(120)))
    attempt(ledger, *(admit(birch) for _ in range(60)))
    pages = walk(staff, f"{ADDRESS}?tenant=acme", "next")
    assert [len(page) for page in pages] == [50, 50, 20]
    assert [row for page in pages for row in page] == ids[::-1]

    newer = attempt(ledger, *(admit(acme) for _ in range(70)))
    oldest = f"{ADDRESS}?tenant=acme&before={ids[20]}"
    back = walk(staff, oldest, "prev")
    assert [row for page in reversed(back) for row in page] == (ids + newer)[::-1]


def test_what_is_in_use_now_stands_above(ledger: Ledger, staff: Client) -> None:
    make_backend("alder", cap=4)
    make_backend("beech", healthy=False, cap=None)
    attempt(ledger, admit(make_tenant()), admit(make_tenant("birch")))
    page = re.sub(r"<[^>]*>|\s+", " ", text(staff, ADDRESS))
    page = re.sub(r"\s+", " ", page)
    assert "All backends 2 of any number" in page
    assert "alder healthy 2 of 4" in page
    assert "beech unhealthy 0 of any number" in page


def test_a_search_that_takes_too_long_is_given_up_in_words(
    ledger: Ledger, staff: Client, monkeypatch: pytest.MonkeyPatch, sql: Any
) -> None:
    make_backend()
    attempt(ledger, admit(make_tenant()))
    monkeypatch.setattr(history, "LONGEST_SEARCH_MS", 20)
    with sql.transaction():
        # Whoever reads the table now waits, as for a scan of millions of rows.
        sql.execute("LOCK TABLE sessions_app_session IN ACCESS EXCLUSIVE MODE")
        page = text(staff, ADDRESS)
    assert "Narrow it" in page
    assert len(listed(staff)) == 1
