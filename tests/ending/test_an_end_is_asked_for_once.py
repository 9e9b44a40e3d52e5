"""Asking for the end of a session: who was first is kept, and whatever is over stays as it is."""

import threading
import uuid

import psycopg
import pytest
from django.db import connection

from sessions_app.domain.operations import Activate, End, Suspend
from sessions_app.domain.states import Reason
from sessions_app.models import EndRequest, Session
from sessions_app.services import ending
from sessions_app.services.ending import Outcome
from sessions_app.services.ledger import Ledger
from tests.world import NODE, admit, make_backend, make_tenant


@pytest.fixture
def live(ledger: Ledger) -> uuid.UUID:
    make_backend()
    asked = admit(make_tenant())
    ledger.apply([asked])
    return asked.attempt.session_id


def test_the_first_who_asks_is_kept_with_their_words(live: uuid.UUID) -> None:
    assert ending.request_end(session_id=live, actor="olga", detail="Asked by support.") is Outcome.ASKED
    assert ending.request_end(session_id=live, actor="peter", detail="Me too.") is Outcome.ASKED_ALREADY
    request = EndRequest.objects.get()
    assert (request.session_id, request.reason, request.actor, request.detail) == (live, "terminated", "olga", "Asked by support.")


def test_every_live_state_can_be_asked_to_end(live: uuid.UUID, ledger: Ledger) -> None:
    for operation, state in ((None, "starting"), (Activate(live, NODE), "active"), (Suspend(live, NODE), "reconnecting")):
        if operation is not None:
            assert ledger.apply([operation]) == [True]
        assert Session.objects.get().state == state
        assert ending.request_end(session_id=live, actor="olga") is Outcome.ASKED
        EndRequest.objects.all().delete()


def test_what_is_over_or_was_never_there_is_told_apart_and_leaves_no_row(live: uuid.UUID, ledger: Ledger) -> None:
    ledger.apply([End(live, Reason.COMPLETED)])
    assert ending.request_end(session_id=live, actor="olga") is Outcome.OVER
    assert ending.request_end(session_id=uuid.UUID(int=7), actor="olga") is Outcome.UNKNOWN
    assert not EndRequest.objects.exists()


def test_asking_changes_nothing_of_the_session(live: uuid.UUID) -> None:
    ending.request_end(session_id=live, actor="olga")
    session = Session.objects.get()
    assert (session.state, session.reason, session.events.count()) == ("starting", "", 1)


def test_words_that_are_too_long_are_cut(live: uuid.UUID) -> None:
    ending.request_end(session_id=live, actor="ö" * 200, detail="ß" * 400)
    request = EndRequest.objects.get()
    assert (len(request.actor), len(request.detail)) == (150, 300)


def test_several_are_asked_at_once(live: uuid.UUID, ledger: Ledger) -> None:
    over = admit(make_tenant("other"))
    ledger.apply([over])
    ledger.apply([End(over.attempt.session_id, Reason.COMPLETED)])
    gone = uuid.UUID(int=7)
    outcomes = ending.request_ends(session_ids=[gone, over.attempt.session_id, live], actor="olga")
    assert outcomes == {gone: Outcome.UNKNOWN, over.attempt.session_id: Outcome.OVER, live: Outcome.ASKED}
    with pytest.raises(ValueError, match="at most 500"):
        ending.request_ends(session_ids=[uuid.uuid4() for _ in range(501)], actor="olga")


def test_of_many_who_ask_at_the_same_time_one_is_first(live: uuid.UUID, sql: psycopg.Connection) -> None:
    outcomes: list[Outcome] = []
    barrier = threading.Barrier(6)

    def ask(name: str) -> None:
        try:
            barrier.wait()
            outcomes.append(ending.request_end(session_id=live, actor=name))
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(f"user-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [Outcome.ASKED] + [Outcome.ASKED_ALREADY] * 5


def test_the_ledger_can_end_it_while_somebody_asks(live: uuid.UUID, ledger: Ledger, sql: psycopg.Connection) -> None:
    """The row that asks refers to the session's: neither may wait for the other's transaction."""
    with sql.transaction():
        sql.execute(
            "INSERT INTO sessions_app_endrequest (session_id, reason, detail, actor, asked_at) VALUES (%s, 'terminated', '', '', now())",
            (live,),
        )
        assert ledger.apply([End(live, Reason.COMPLETED)]) == [True]
