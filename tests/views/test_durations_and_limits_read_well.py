"""How values read on the pages."""

from datetime import UTC, datetime, timedelta

import pytest

from sessions_app.models import Session
from sessions_app.selectors.history import Flood
from sessions_app.views import present

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, "–"),
        (0, "0 ms"),
        (340, "340 ms"),
        (12_300, "12.3 s"),
        (75_000, "1 min 15 s"),
        (3_599_800, "1 h 0 min"),
        (3_700_000, "1 h 1 min"),
    ],
)
def test_a_duration_has_the_unit_that_fits(milliseconds: int | None, text: str) -> None:
    assert present.duration(milliseconds) == text


def test_a_reason_that_is_not_known_any_more_has_no_sentence() -> None:
    assert present.reason_sentence("phase_of_the_moon") == present.reason_sentence("") == ""


def test_entries_of_a_limit_vector_that_cannot_be_read_are_left_out() -> None:
    rows = present.limit_rows(
        [{"scope": "tenant", "used": 3, "limit": 3}, {"scope": "galaxy", "used": 1, "limit": None}, {"scope": "user"}]
    )
    assert [(row.scope, row.used, row.limit, row.full) for row in rows] == [("Tenant", 3, "3", True), ("galaxy", 1, "", False)]


def test_what_is_kept_for_others_and_what_a_burst_allows_decide_whether_a_limit_is_full() -> None:
    rows = present.limit_rows([
        {"scope": "tenant", "used": 10, "limit": 10, "burst": 5},
        {"scope": "tenant", "used": 15, "limit": 10, "burst": 5},
        {"scope": "backend", "used": 7, "limit": 10, "reserved": 2},
        {"scope": "backend", "used": 7, "limit": 10, "reserved": 3},
    ])  # fmt: skip
    assert [(row.full, row.kept, row.burst) for row in rows] == [(False, 0, 5), (True, 0, 5), (False, 2, 0), (True, 3, 0)]
    assert str(rows[0]) == "Tenant 10 of 10 + 5 burst"


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ({}, ""),
        ({"queued_at": NOON}, "12.0 s so far"),
        ({"queued_at": NOON, "started_at": NOON + timedelta(seconds=3)}, "3.0 s"),
        ({"queued_at": NOON, "ended_at": NOON + timedelta(seconds=65)}, "1 min 5 s"),
    ],
)
def test_a_wait_is_until_the_slot_the_end_or_now(times: dict[str, datetime], text: str) -> None:
    assert present.waited(Session(**times), now=NOON + timedelta(seconds=12)) == text


def test_a_flood_is_one_sentence() -> None:
    flood = Flood("acme", "session_limit_exceeded", 1240, NOON, NOON + timedelta(seconds=29))
    assert present.flood_sentence(flood) == (
        "1,240 further attempts of acme were refused with session_limit_exceeded between 2026-11-24 12:00:00 and 12:00:29 UTC"
        " and counted only."
    )
    assert present.flood_sentence(flood, own=True).startswith("1,240 further attempts were refused")
    assert present.flood_sentence(Flood("", "authentication_failed", 1, NOON, NOON)) == (
        "1 attempt by callers who are not known was refused with authentication_failed at 2026-11-24 12:00:00 UTC and counted only."
    )
    assert "12:00:00 and 2026-11-25 12:00:00 UTC" in present.flood_sentence(Flood("acme", "x", 2, NOON, NOON + timedelta(days=1)))
