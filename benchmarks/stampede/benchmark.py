"""``stampede``: how long do 2,000 WebSocket clients who come at the same moment wait for their answer, and is each answer right?

One web process as ``manage.py up`` starts it. Its backend and the tenant have room for 500, 500 may wait, and the rest is refused. Then
everybody goes, and what the ledger wrote is checked: every counter, and the history against the limits. The rounds follow each other on
the same server; the first finds it just started.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.harness import plots, report
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.neighbours import Neighbours
from benchmarks.harness.servers import WebServer
from benchmarks.harness.stage import Stage
from benchmarks.harness.workers import Message, Worker

SUMMARY: Final = "2,000 WebSocket clients at once on a cap of 500 with a queue of 500: when does each have its answer? In a minute."
SERVERS: Final = ("uvicorn", "daphne")
PROCESSES: Final = 2
RATE: Final = 100_000_000  # sessions a minute; in force, and never used up
MINT_S: Final = 30.0
AHEAD_S: Final = 0.5  # from the word to the moment, so that all processes are ready for it
ANSWERS_S: Final = 90.0
GONE_S: Final = 90.0
QUIET_S: Final = 30.0  # until the ledger has written the last end
KINDS: Final = ("started", "queued", "queue_full")
CLOSE_FULL: Final = 4429


@dataclass
class Round:
    """One stampede; times are seconds from the first connect.

    Attributes:
        answers: Of each kind, when they came.
        waits: From each client's own connect to its answer.
        opened: When the handshakes were answered.
        wrong: What was wrong, and how often.
        server_s: Processor time of the server until the last answer, ``clients_s`` of the client processes.
        others: What others' programs took of all processors meanwhile, in percent.
    """

    answers: dict[str, list[float]]
    waits: list[float]
    opened: list[float]
    wrong: Counter[str]
    server_s: float
    clients_s: float
    others: float

    @property
    def last(self) -> float:
        """When the last answer came."""
        return max((at for each in self.answers.values() for at in each), default=float("nan"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--server", choices=SERVERS, default=SERVERS[0])
    parser.add_argument("--clients", type=int, default=2000, metavar="N")
    parser.add_argument("--cap", type=int, default=500, metavar="N", help="sessions that there is room for (default 500)")
    parser.add_argument("--queue", type=int, default=500, metavar="N", help="sessions that may wait (default 500)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="stampedes (default 3); the median of them is told at the end")
    parser.add_argument("--no-plot", action="store_true", help="leave the last plot as it is")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    rounds: list[Round] = []
    with Stage() as stage:
        stage.backend(cap=options.cap)
        tenant = stage.tenant(
            "stampede",
            max_concurrent_sessions=options.cap,
            sessions_per_minute=RATE,
            max_queue_length=options.queue,
            max_queue_wait_s=None,
            idle_timeout_s=None,
        )
        with ExitStack() as stack:
            web = stack.enter_context(WebServer(stage.folder, options.server))
            workers = [stack.enter_context(Worker("benchmarks.stampede.clients", each)) for each in _shares(options, web.port, tenant)]
            for each in workers:
                each.hear("ready", 30.0)
            for number in range(options.rounds):
                rounds.append(_stampede(web, workers, number, options))
                _await_nobody()
                print(f"round {number + 1}: last answer after {rounds[-1].last:.2f} s; {report.load()}", flush=True)
            errors = web.errors()
        findings = _findings(refused=sum(len(each.answers["queue_full"]) for each in rounds))
    print(_tables(rounds, options.server, errors))
    if not options.no_plot:
        plots.say(plots.save("stampede", lambda axes: _draw(axes, rounds), panels=2))
    print(*findings[:5], sep="\n")
    return _figures(rounds) | {"history_clean": not findings}


def _shares(options: argparse.Namespace, port: int, tenant: int) -> Iterable[Message]:
    first = 0
    for i in range(PROCESSES):
        clients = options.clients // PROCESSES + (i < options.clients % PROCESSES)
        yield {"port": port, "tenant": tenant, "clients": clients, "first": first}
        first += clients


def _stampede(web: WebServer, workers: list[Worker], number: int, options: argparse.Namespace) -> Round:
    _all(workers, {"do": "come", "round": number}, "minted", MINT_S)
    before, neighbours = web.sample(), Neighbours()
    heard = _all(workers, {"at": time.monotonic() + AHEAD_S}, "answers", ANSWERS_S)
    others, after = neighbours.percent(), web.sample()
    visits = [visit for each in heard for visit in each["visits"]]
    first = min(each["asked"] for each in visits)
    answered = [each for each in visits if each["answered"] is not None]
    found = Round(
        answers={kind: sorted(v["answered"] - first for v in answered if v["kind"] == kind) for kind in KINDS},
        waits=[each["answered"] - each["asked"] for each in answered],
        opened=[each["opened"] - first for each in visits if each["opened"] is not None],
        wrong=_wrong(visits, options),
        server_s=after.cpu_s - before.cpu_s,
        clients_s=sum(each["cpu_s"] for each in heard),
        others=others,
    )
    _all(workers, {"do": "leave"}, "gone", GONE_S)
    return found


def _all(workers: list[Worker], message: Message, kind: str, timeout_s: float) -> list[Message]:
    for each in workers:
        each.say(message)
    return [each.hear(kind, timeout_s) for each in workers]


def _wrong(visits: list[Message], options: argparse.Namespace) -> Counter[str]:
    """Count every client that was not told what it should have been."""
    wrong: Counter[str] = Counter()
    kinds = Counter(each["kind"] for each in visits)
    started = min(options.cap, options.clients)
    queued = min(options.queue, options.clients - started)
    expected = {"started": started, "queued": queued, "queue_full": options.clients - started - queued}
    for kind, count in kinds.items():
        if count > (due := expected.get(kind, 0)):
            wrong[kind] += count - due
    for each in visits:
        if each["kind"] == "queue_full" and each["close"] != CLOSE_FULL:
            wrong[f"refused, then closed with {each['close']}"] += 1
    positions = Counter(each["position"] for each in visits if each["kind"] == "queued")
    # Nobody leaves before all are answered: each place is told once, and none that there is not.
    wrong["places in the queue"] += sum(count if not 1 <= place <= queued else count - 1 for place, count in positions.items())
    return +wrong


def _await_nobody() -> None:
    """Wait until the ledger has no slot and no place any more, so that the next round finds all the room."""
    until = time.monotonic() + QUIET_S
    while left := _count("SELECT (SELECT count(*) FROM sessions_app_slot) + (SELECT count(*) FROM sessions_app_waiter)"):
        if time.monotonic() > until:
            raise BenchmarkError(f"{left} sessions are still there {QUIET_S:g} s after everybody has gone.")
        time.sleep(0.05)


def _findings(*, refused: int) -> list[str]:
    """Return sentences on what the ledger's rows have wrong; none where the history is clean and nobody is left in a counter."""
    from sessions_app.selectors import verification

    found = list(verification.history().findings)
    if left := _count("SELECT count(*) FROM sessions_app_capacity WHERE active <> 0 OR queued <> 0"):
        found.append(f"{left} counters are not 0 although everybody has gone")
    noted = _count("SELECT count(*) FROM sessions_app_session WHERE state = 'rejected'")
    noted += _count("SELECT coalesce(sum(count), 0) FROM sessions_app_attemptcount")
    if noted != refused:
        found.append(f"{refused} clients were refused, {noted} refusals are on record")
    return found


def _count(statement: str) -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement)
        return int(cursor.fetchall()[0][0])


# --- what is told ---------------------------------------------------------------------------------------------------------------
def _tables(rounds: list[Round], server: str, errors: int) -> str:
    columns = [f"{server}: seconds from the first connect", "clients", "first", "p50", "p99", "last"]
    rows: list[list[object]] = []
    for number, each in enumerate(rounds, 1):
        for kind, times in (("handshake", each.opened), *each.answers.items()):
            shown = [f"{report.percentile(times, share):.2f}" for share in (0, 0.5, 0.99, 1)] if times else []
            rows.append([f"round {number}: {kind}", len(times), *shown, *[None] * (4 - len(shown))])
    most = ["round", "answered", "wrong", "last answer, s", "own wait p50", "p99", "server's cpu s", "clients'", "others' cpu %"]
    each_round = [
        [n, len(r.waits), dict(r.wrong) or 0, *_seconds(r.last, *(report.percentile(r.waits, p) for p in (0.5, 0.99))),
         *_seconds(r.server_s, r.clients_s), r.others]
        for n, r in enumerate(rounds, 1)
    ]  # fmt: skip
    return "\n\n".join(["", report.table(columns, rows), report.table(most, each_round), f"errors that the server logged: {errors}"])


def _seconds(*values: float) -> list[str]:
    return [f"{each:.2f}" for each in values]


def _figures(rounds: list[Round]) -> dict[str, Any]:
    told = sorted(rounds, key=lambda each: each.last)[len(rounds) // 2]
    return {
        **{kind: len(times) for kind, times in told.answers.items()},
        "wrong": sum(sum(each.wrong.values()) for each in rounds),
        "last_answer_s": report.figure(statistics.median(each.last for each in rounds), 2),
        "p50_s": report.figure(report.percentile(told.waits, 0.5), 2),
        "p99_s": report.figure(report.percentile(told.waits, 0.99), 2),
        "last_answer_s_of_rounds": [report.figure(each.last, 2) for each in rounds],
    }


def _draw(axes: list[Any], rounds: list[Round]) -> None:
    told = sorted(rounds, key=lambda each: each.last)[len(rounds) // 2]
    for kind, times in (("handshake", sorted(told.opened)), *told.answers.items()):
        style = ":" if kind == "handshake" else "-"
        axes[0].step([0.0, *times], range(len(times) + 1), style, where="post", label=kind)
    axes[0].set(xlabel="seconds from the first connect", ylabel="clients answered", title="the median round")
    axes[0].legend()
    for number, each in enumerate(rounds, 1):
        every = sorted(at for times in each.answers.values() for at in times)
        axes[1].step([0.0, *every], range(len(every) + 1), where="post", label=f"round {number}")
    axes[1].axvline(3.0, color="0.6", linewidth=0.8)
    axes[1].set(xlabel="seconds from the first connect", ylabel="clients answered", title="all answers")
    axes[1].legend()
    for each_axes in axes:
        each_axes.grid(alpha=0.3)
