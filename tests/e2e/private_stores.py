"""Servers on a PostgreSQL of one file's own, which its tests may stop, freeze and start again under live sessions."""

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests import world
from tests.batcher.private_database import forget_connections, private_database
from tests.e2e.client import Call, Closed
from tests.e2e.server import Server, manage, wait_until
from voiceplatform.embedded import Postgres

# Answers that are given at once come in milliseconds; those that wait for a time-out take longer than this on any machine.
AT_ONCE_S = 2.5
BACK_S = 20.0
FRAME = b"\x07" * 960


@contextmanager
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL that this process uses as its database meanwhile; with the backend of tenants that have none of their own."""
    # A short path: its socket keeps its place over a stop.
    with tempfile.TemporaryDirectory(prefix="voice-own-") as folder:
        Path(folder).chmod(0o711)
        with private_database(Path(folder)) as store:
            world.make_backend("loopback", options={"delay_ms": 0}, cap=None)
            yield store


@contextmanager
def away(store: Postgres) -> Iterator[None]:
    """Stop PostgreSQL, in order; start it again at the end."""
    store.stop()
    try:
        yield
    finally:
        store.start()
        forget_connections()


@contextmanager
def frozen(store: Postgres) -> Iterator[None]:
    """Stand every process of PostgreSQL still: connections stay open, and nothing is answered."""
    assert store.pid is not None
    server = psutil.Process(store.pid)
    # Itself first, so that it makes no more of them.
    server.suspend()
    family = [server, *server.children(recursive=True)]
    for each in family[1:]:
        each.suspend()
    try:
        yield
    finally:
        for each in reversed(family):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()


def talks(call: Call) -> None:
    """What is said comes back."""
    assert call.exchange([FRAME] * 3) == [FRAME] * 3


def refused_at_once(call: Call) -> None:
    """An attempt is answered ``unavailable``, 4013, and does not wait for any time-out."""
    asked_at = time.monotonic()
    refusal, code = call.refused()
    waited = time.monotonic() - asked_at
    assert (refusal["code"], refusal["retry_after_s"], code) == ("unavailable", 5, 4013)
    assert waited < AT_ONCE_S


def take_session(dialled: Call) -> Call:
    """Start the session once the server takes sessions again; until then the token stays good."""
    dialled.say({"type": "session.start"})
    answer = dialled.hear()
    assert isinstance(answer, dict)
    assert answer["type"] == "session.started", answer
    return dialled


def clean() -> None:
    """What is counted is what is there."""
    assert "clean" in manage("verify_capacity")


def is_ready(server: Server) -> None:
    """Wait until the server could admit a session again."""
    wait_until(lambda: server.request("GET", "/readyz")[0] == 200, BACK_S, "the server's readiness")


def tracebacks(server: Server) -> list[str]:
    """Lines of the log that are no line of ours, or hold an exception: an outage is told in sentences."""
    found = []
    for line in server.log.read_text(encoding="utf-8").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            found.append(line)
        else:
            found += [line] if "exception" in told or told["level"] == "critical" else []
    return found


def hung_up(call: Call) -> int:
    """Read to the end and return the close code."""
    while not isinstance(thing := call.hear(), Closed):
        continue
    return thing.code
