"""Nobody hears of what a crash can still take back, although a large batch gives its locks back before the disk has it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sessions_app.domain.operations import Admit
from sessions_app.models import Session
from sessions_app.selectors import verification
from sessions_app.services import ledger_sql
from sessions_app.services.ledger import MANY
from tests import world
from tests.batcher.private_database import forget_connections, private_database
from tests.platform.instance import none_left
from voiceplatform.embedded import Postgres

GONE_S = 20.0


@pytest.fixture
def private(tmp_path: Path, django_db_setup: None, django_db_blocker: Any) -> Iterator[Postgres]:
    with django_db_blocker.unblock(), private_database(tmp_path) as store:
        yield store


@pytest.mark.slow
def test_a_large_batch_is_answered_when_it_is_on_disk(private: Postgres) -> None:
    asked = a_large_batch()
    hold_the_disk(private)
    with world.new_ledger() as ledger:
        assert all(world.admitted(each).verdict.admitted for each in ledger.apply(asked))
        crash(private)
    assert Session.objects.count() == len(asked)
    assert verification.discrepancies() == []


@pytest.mark.slow
def test_without_the_wait_for_the_disk_what_was_answered_is_gone(private: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = a_large_batch()
    hold_the_disk(private)
    with ledger_that_waits_for_no_disk(monkeypatch) as ledger:
        assert all(world.admitted(each).verdict.admitted for each in ledger.apply(asked))
        crash(private)
    assert Session.objects.count() == 0


@pytest.mark.slow
def test_who_is_told_of_anothers_session_is_told_when_that_is_on_disk(private: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = a_large_batch()
    hold_the_disk(private)
    with ledger_that_waits_for_no_disk(monkeypatch) as first:
        first.apply(asked)
    monkeypatch.undo()
    with world.new_ledger() as second:
        answer = world.admitted(second.apply([asked[0]])[0])
        assert answer.attached
        crash(private)
    assert Session.objects.filter(pk=answer.session_id).exists()


def a_large_batch() -> list[Admit]:
    world.make_backend()
    tenant = world.make_tenant(max_concurrent_sessions=None)
    return [world.admit(tenant, f"user {n}") for n in range(2 * MANY)]


def ledger_that_waits_for_no_disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(ledger_sql.STATEMENTS, "voice_durable", "SELECT 1")
    return world.new_ledger()


def hold_the_disk(store: Postgres) -> None:
    """Stop the process that writes the log behind everybody, which would else be lucky enough to be in time."""
    for process in psutil.Process(store.pid).children():
        if "walwriter" in " ".join(process.cmdline()):
            process.suspend()
            return
    raise AssertionError("PostgreSQL has no walwriter")


def crash(store: Postgres) -> None:
    """Kill the server and all of its processes at once, and start it again."""
    server = psutil.Process(store.pid)
    family = [server, *server.children(recursive=True)]
    for process in family:
        process.kill()
    assert none_left(family, GONE_S)
    store.start()
    forget_connections()
