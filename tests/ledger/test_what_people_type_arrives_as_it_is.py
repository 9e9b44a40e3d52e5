"""Rows go to PostgreSQL as text of arrays, so whatever stands in a name or a note must be read there as it was written."""

from collections.abc import Container, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessions_app.domain.operations import Admit, End
from sessions_app.domain.states import Reason
from sessions_app.models import Session, SessionEvent
from sessions_app.services import ledger_book, ledger_sql
from sessions_app.services.ledger import Ledger
from tests.world import NODE, admit, make_backend, make_tenant

NASTY = ('say "hi"', "back\\slash", 'both \\"', "{a,b}", "null", "", "line\nand\ttab", "ünïcödé 🎙", "\\", '"', "\\n")
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(NASTY)
ON_ONE_DATABASE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ON_ONE_DATABASE
@given(values=st.lists(TEXT | st.none(), max_size=6))
def test_an_array_is_read_as_it_was_written(sql: psycopg.Connection[Any], values: list[str | None]) -> None:
    assert sql.execute("SELECT %s::text[]", [ledger_sql.array(values)]).fetchall() == [(values,)]


@ON_ONE_DATABASE
@given(rows=st.lists(st.tuples(TEXT, TEXT | st.none()), min_size=1, max_size=4), own=st.sets(st.sampled_from([0, 1])))
def test_so_are_columns_and_what_rows_share(sql: psycopg.Connection[Any], rows: list[tuple[str, str | None]], own: set[int]) -> None:
    columns = sql.execute("SELECT c[1]::text[], c[2]::text[] FROM (SELECT %s::text[]) AS r(c)", [ledger_sql.columns(rows)]).fetchall()[0]
    assert list(zip(*columns, strict=True)) == rows
    first, second, shared = sql.execute(
        "SELECT c[1]::text[], c[2]::text[], c[3]::text[] FROM (SELECT %s::text[]) AS r(c)", [ledger_sql.shared_columns(rows, own=own)]
    ).fetchall()[0]
    for number, found in enumerate((first, second)):
        values = [row[number] for row in rows]
        assert (found if found is not None else [shared[number]] * len(rows)) == values
        assert found is not None or len(set(values)) == 1
        assert found is not None or number not in own


def live(ledger: Ledger) -> None:
    """Begin and end a session for each, with these words wherever somebody has a say."""
    make_backend()
    tenant = make_tenant(max_concurrent_sessions=None)
    asked = [Admit(admit(tenant, f"{word}{number}").attempt, NODE, {"note": word}) for number, word in enumerate(NASTY)]
    ledger.apply(asked)
    ends = [End(each.attempt.session_id, Reason.TERMINATED, detail=word, actor=word) for each, word in zip(asked, NASTY, strict=True)]
    assert ledger.apply(ends) == [True] * len(NASTY)
    ended = {each.pk: each for each in Session.objects.all()}
    events = {each.session_id: each for each in SessionEvent.objects.filter(new="ended")}
    for number, (each, word) in enumerate(zip(asked, NASTY, strict=True)):
        session, event = ended[each.attempt.session_id], events[each.attempt.session_id]
        assert (session.user, session.metadata, session.detail) == (f"{word}{number}", {"note": word}, word)
        assert (event.actor, event.detail) == (word, {"text": word} if word else {})


def test_names_notes_and_details_are_kept_as_they_are(ledger: Ledger) -> None:
    live(ledger)


def test_a_process_of_the_version_before_goes_on_while_it_is_replaced(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes every column in full."""

    def in_full(rows: Sequence[Sequence[Any]], *, own: Container[int], nested: Container[int]) -> str | None:
        return ledger_sql.columns([[ledger_sql.encode(each) if n in nested else each for n, each in enumerate(row)] for row in rows])

    monkeypatch.setattr(ledger_book, "shared_columns", in_full)
    live(ledger)
