"""``docs/sessions.md`` has a row for every state, reason and close code, says of each what the code does, and names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from sessions_app.domain.states import MEANINGS, SLOT_STATES, Reason, State
from sessions_app.transport import close_codes

PROJECT = Path(__file__).resolve().parent.parent.parent
NOT_YET = "with the queue"
QUEUE = {"queued", "abandoned", "expired", "queue_full", "rate_limit_exceeded", "queue_timeout", "4408"}
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
Rows = dict[str, list[str]]


@cache
def table(heading: str) -> Rows:
    """The rows below a heading, by their first cell; fails where two rows are for the same thing."""
    text = (PROJECT / "docs" / "sessions.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = {row[0].strip("`"): row[1:] for row in rows}
    assert len(found) == len(rows), "a thing has two rows"
    return found


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def codes() -> set[int]:
    """Every close code that the code knows."""
    own = {value for name, value in vars(close_codes).items() if name.isupper() and isinstance(value, int)}
    return own | {meaning.close for meaning in MEANINGS.values() if meaning.close is not None}


def shown(value: object) -> str:
    return "–" if value is None else str(value)


def test_every_state_has_its_row_which_says_whether_it_holds_a_slot() -> None:
    assert {name: row[0] for name, row in table("States").items()} == {each: "yes" if each in SLOT_STATES else "no" for each in State}


def test_every_reason_has_its_row_with_state_close_code_and_http_status() -> None:
    told = {name: tuple(row[1:4]) for name, row in table("Reasons").items()}
    assert told == {each: (shown(MEANINGS[each].final), shown(MEANINGS[each].close), shown(MEANINGS[each].http)) for each in Reason}


def test_every_close_code_has_its_row_which_names_its_reasons() -> None:
    rows = table("Close codes")
    assert set(rows) == {str(code) for code in codes()}
    # Long lists are told in words.
    for code in codes() - {4429, 4503}:
        assert {each for each in Reason if MEANINGS[each].close == code} <= set(re.findall(r"`(\w+)`", rows[str(code)][0])), code


@pytest.mark.parametrize("heading", ["States", "Reasons", "Close codes"])
def test_every_row_says_what_makes_it_happen_and_names_tests_that_exist(heading: str) -> None:
    for name, row in table(heading).items():
        assert all(row), f"an empty cell for {name}"
        tests = NAMED.findall(row[-1])
        if row[-1] == NOT_YET:
            assert name in QUEUE, f"no test for {name}"
            continue
        assert tests, f"no test for {name}"
        for path, test in tests:
            assert test in functions_in(path), f"{path}::{test} is not there"
