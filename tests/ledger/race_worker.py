"""The processes of the race test: each with several connections and as many ledgers, that all ask for one slot when told to.

Reads ``TENANT_ID`` lines, answers each with the ids of the sessions that were admitted. With ``--without-lock`` they find
other functions than those that lock: the same without the advisory locks. The product has no such switch.
"""

import multiprocessing
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import django

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "voiceplatform.settings"
    django.setup()

import uuid_utils.compat

from sessions_app.domain.operations import Admit, Admitted
from sessions_app.domain.world import Attempt
from sessions_app.services.connections import open_connection
from sessions_app.services.ledger import RETRYABLE, Ledger
from tests.world import NODE

NAME = "race"
PROCESSES = 8
CONNECTIONS = 8  # of each process
ATTEMPTS = PROCESSES * CONNECTIONS
LOCKING = ("voice_open", "voice_finish")
PATH = ["public"]  # where a connection looks for functions


def take_the_lock_out() -> None:
    """Let the ledgers of this process find other functions first: they do what the product's do, and lock nothing."""
    with open_connection(name=NAME) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS without_lock")
        for name in LOCKING:
            found = connection.execute("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = %s ORDER BY pronargs DESC", [name])
            (definition,) = found.fetchall()[0]
            assert "pg_advisory_xact_lock(" in definition
            assert "pg_advisory_xact_lock_shared(" in definition
            unlocked = re.sub(r"pg_advisory_xact_lock(_shared)?\(", "abs(", definition)
            connection.execute(unlocked.replace(f"FUNCTION public.{name}", f"FUNCTION without_lock.{name}"))
    PATH.insert(0, "without_lock")


def new_ledger() -> Ledger:
    connection = open_connection(name=NAME)
    connection.execute(f"SET search_path = {', '.join(PATH)}")
    return Ledger(connection)


def ask(ledger: Ledger, tenant_id: int) -> str:
    """Return the session's id, empty where it was refused."""
    operation = Admit(Attempt(uuid_utils.compat.uuid7(), tenant_id, "ann"), NODE)
    while True:
        try:
            (result,) = ledger.apply([operation])
        except RETRYABLE:
            continue
        assert isinstance(result, Admitted)
        return str(result.session_id) if result.verdict.admitted else ""


def serve(commands: "Connection[list[str], int]") -> None:
    ledgers = [new_ledger() for _ in range(CONNECTIONS)]
    commands.send([])
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        while True:
            commands.send(list(threads.map(ask, ledgers, [commands.recv()] * CONNECTIONS)))


def main() -> None:
    if "--without-lock" in sys.argv:
        take_the_lock_out()
    # Forked before there is any connection or thread: what is imported is imported once.
    context = multiprocessing.get_context("fork")
    pipes = []
    for _ in range(PROCESSES):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs,), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    print("ready", flush=True)
    for line in sys.stdin:
        for pipe in pipes:
            pipe.send(int(line))
        print(*(word for pipe in pipes for word in pipe.recv() if word), flush=True)


if __name__ == "__main__":
    main()
