"""The processes of the queue's races: each with several connections and as many ledgers, that all do what they are told at once.

Reads one line of JSON: a plan for each ledger. A plan is a list of operations for one batch (``["admit", tenant, user]`` or
``["end", session]``), or ``["flood", tenant, rounds]``: batches of new attempts, and of ends of what this ledger let in or promoted.
Answers with one line: what became of each. With ``--without-lock`` nothing is locked, as in the race for one cap.
"""

import json
import multiprocessing
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

import django

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "voiceplatform.settings"
    django.setup()

import psycopg
import uuid_utils.compat

from sessions_app.domain.operations import Admit, Admitted, End, Operation, Result
from sessions_app.domain.states import Reason, State
from sessions_app.domain.world import Attempt
from sessions_app.services.ledger import RETRYABLE, Ledger
from tests.ledger.race_worker import new_ledger, take_the_lock_out
from tests.world import NODE

NAME = "queue race"
PROCESSES = 4
CONNECTIONS = 4  # of each process
LEDGERS = PROCESSES * CONNECTIONS


def admit(tenant_id: int, user: str) -> Admit:
    return Admit(Attempt(uuid_utils.compat.uuid7(), tenant_id, user), NODE)


def applied(ledger: Ledger, operations: list[Operation]) -> list[Result]:
    while True:
        try:
            return ledger.apply(operations)
        except RETRYABLE:
            continue


def once(ledger: Ledger, plan: list[list[Any]]) -> dict[str, Any]:
    """Apply one batch; ``failed`` where the database noticed that somebody else had the same row."""
    operations: list[Operation] = [admit(each[1], each[2]) if each[0] == "admit" else End(UUID(each[1]), Reason.COMPLETED) for each in plan]
    try:
        results = applied(ledger, operations)
    except psycopg.Error as error:
        return {"failed": error.sqlstate}
    answers = [each for each in results if isinstance(each, Admitted)]
    return {
        "admitted": [str(each.session_id) for each in answers if each.state is State.STARTING],
        "queued": [str(each.session_id) for each in answers if each.state is State.QUEUED],
        "refused": [each.verdict.reason for each in answers if each.state is State.REJECTED],
        "promoted": [str(each.session_id) for each in ledger.promoted],
    }


def flood(ledger: Ledger, tenant_id: int, rounds: int, seed: int) -> dict[str, Any]:
    """Ask and end, again and again; whom this ledger promotes is its own to end."""
    order = random.Random(seed)
    told: dict[str, list[str]] = {"admitted": [], "queued": [], "promoted": [], "ended": []}
    holds: list[str] = []
    for number in range(rounds):
        order.shuffle(holds)
        ends = [holds.pop() for _ in range(min(len(holds), order.randint(0, 2)))]
        plan: list[list[Any]] = [["admit", tenant_id, f"user{number}"] for _ in range(order.randint(1, 3))]
        plan += [["end", each] for each in ends]
        order.shuffle(plan)
        done = once(ledger, plan)
        for name in ("admitted", "queued", "promoted"):
            told[name] += done[name]
        told["ended"] += ends
        holds += done["admitted"] + done["promoted"]
    return told


def act(ledger: Ledger, plan: list[Any], seed: int) -> dict[str, Any]:
    return flood(ledger, tenant_id=plan[1], rounds=plan[2], seed=seed) if plan and plan[0] == "flood" else once(ledger, plan)


def serve(commands: "Connection[Any, Any]", number: int) -> None:
    ledgers = [new_ledger() for _ in range(CONNECTIONS)]
    seeds = [number * CONNECTIONS + each for each in range(CONNECTIONS)]
    commands.send([])
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        while True:
            commands.send(list(threads.map(act, ledgers, commands.recv(), seeds)))


def main() -> None:
    if "--without-lock" in sys.argv:
        take_the_lock_out()
    # Forked before there is any connection or thread: what is imported is imported once.
    context = multiprocessing.get_context("fork")
    pipes = []
    for number in range(PROCESSES):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, number), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    print("ready", flush=True)
    for line in sys.stdin:
        plans = json.loads(line)
        for index, pipe in enumerate(pipes):
            pipe.send(plans[index::PROCESSES])
        # In any order: nobody asks who did what.
        print(json.dumps([each for pipe in pipes for each in pipe.recv()]), flush=True)


if __name__ == "__main__":
    main()
