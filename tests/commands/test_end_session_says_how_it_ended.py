"""``manage.py end_session``: one sentence and an exit code for whatever it finds."""

import os
import pwd
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.management.commands import end_session
from sessions_app.models import EndRequest
from sessions_app.services.ledger import Ledger
from tests.e2e.server import wait_until
from tests.world import admit, database_url, make_backend, make_tenant, new_ledger

PROJECT = Path(__file__).resolve().parent.parent.parent
ME = f"command:{pwd.getpwuid(os.getuid()).pw_name}"


def said(*words: str) -> str:
    out = StringIO()
    call_command("end_session", *words, stdout=out)
    return out.getvalue()


@pytest.fixture
def live(ledger: Ledger) -> str:
    make_backend()
    asked = admit(make_tenant())
    ledger.apply([asked])
    return str(asked.attempt.session_id)


@pytest.fixture
def node(live: str) -> Iterator[None]:
    """Carries out the first end that is asked for, as a node does."""

    def carry_out() -> None:
        try:
            asked = wait_until(lambda: EndRequest.objects.first(), 10, "a request")
            with new_ledger() as own:
                own.apply([End(asked.session_id, Reason(asked.reason), asked.detail, actor=asked.actor)])
        finally:
            connection.close()

    thread = threading.Thread(target=carry_out)
    thread.start()
    yield
    thread.join()


def test_it_waits_for_the_end_and_names_who_asked(live: str, node: None) -> None:
    assert said(live, "--reason", "Asked by support.") == f"Session {live} has ended: terminated by {ME}.\n"


def test_who_asked_first_is_named(live: str, node: None) -> None:
    EndRequest.objects.create(session_id=live, reason="terminated", actor="olga", asked_at="2026-01-01T00:00:00Z")
    assert said(live) == f"Session {live} has ended: terminated by olga.\n"


def test_why_is_kept(live: str) -> None:
    assert said(live, "--no-wait", "--reason", " Asked by support. ") == f"Session {live} has been asked to end.\n"
    request = EndRequest.objects.get()
    assert (request.actor, request.detail) == (ME, "Asked by support.")
    assert said(live, "--no-wait") == f"Session {live} has already been asked to end.\n"


def test_a_session_that_is_over_is_no_failure(live: str, ledger: Ledger) -> None:
    ledger.apply([End(uuid.UUID(live), Reason.COMPLETED)])
    assert said(live) == f"Session {live} was over already: completed.\n"


def test_an_end_that_does_not_come_in_time_is_a_failure(live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_session, "WAIT_S", 0.3)
    with pytest.raises(CommandError, match=r"was asked to end and has not within 0\.3 s; the request stays"):
        said(live)
    assert EndRequest.objects.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["4711"], "'4711' is no session id: that is a UUID, as the history shows it."),
        ([str(uuid.UUID(int=7))], f"There is no session {uuid.UUID(int=7)}."),
        ([str(uuid.UUID(int=7)), "--reason", "x" * 301], "The reason has 301 characters; at most 300 are kept."),
    ],
)
def test_wrong_input_is_one_sentence(committed_db: None, words: list[str], told: str) -> None:
    with pytest.raises(CommandError) as refused:
        said(*words)
    assert str(refused.value) == told


@pytest.mark.slow
def test_on_a_real_command_line_there_is_one_line_and_an_exit_code(live: str) -> None:
    for words, code, lines in ((["end_session", live, "--no-wait", "--reason", b"caf\xe9"], 0, (1, 0)), (["end_session", "x"], 1, (0, 1))):
        ran = subprocess.run(
            [sys.executable, "manage.py", *words], cwd=PROJECT, env=os.environ | {"DATABASE_URL": database_url()},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ran.returncode, len(ran.stdout.splitlines()), len(ran.stderr.splitlines())) == (code, *lines), ran
    assert EndRequest.objects.get().detail == "caf?"


def test_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call_command("end_session", "--help")
    assert end.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Exit code 0 when it has ended or was over already, 1 when there is no such session" in told
    assert "--no-wait" in told
