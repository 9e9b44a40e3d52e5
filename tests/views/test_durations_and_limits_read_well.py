"""How values read on the pages."""

import pytest

from sessions_app.views import present


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
