"""``admission``: pairs of an admission and a release each second, and how long an admission takes, beside what people use instead.

Two client processes; blocks of all methods take turns, so that what else the machine does hits them alike; medians of the blocks are
told. Ours is the product's batcher and ledger as ``migrate`` made their database: triggers on, caps of platform, backend, tenant and user
and a rate in force, events and limit vectors written. At the end every row is checked, and the history replayed.
"""

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.admission.setting import RACE_LIMIT, Setting
from benchmarks.harness import plots, report
from benchmarks.harness.stage import Stage
from benchmarks.harness.workers import Message, Worker

SUMMARY: Final = "admit and release beside count-then-insert, row locks, Django's ORM and a Valkey script, in five minutes."
PROCESSES: Final = 2
WAITING: Final = (1, 8, 32, 128, 512)
OURS: Final = "ours"
POOLED: Final = ("count_insert", "row_lock", "orm")
# More connections than this make each other slower; see the README.
CONNECTIONS: Final = 8  # of a process
ALWAYS: Final = ("valkey", "valkey_pipelined")
EVERYSEC: Final = ("valkey_everysec", "valkey_pipelined_everysec")
METHODS: Final = (OURS, *POOLED, *ALWAYS, *EVERYSEC)
NAMES: Final = {
    OURS: "ours",
    "count_insert": "(a) count, then insert",
    "row_lock": "(b) SELECT … FOR UPDATE",
    "orm": "(c) the same, Django's ORM",
    "valkey": "(d) Valkey, AOF always",
    "valkey_pipelined": "(d) pipelined, AOF always",
    "valkey_everysec": "(d) Valkey, AOF everysec",
    "valkey_pipelined_everysec": "(d) pipelined, AOF everysec",
}
WORKLOADS: Final = ("hot", "zipf")
RUSH: Final = 32  # clients that ask at the same moment


@dataclass
class Cell:
    """The blocks of one method with so many waiting clients."""

    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    pairs: int = 0

    def median(self, of: str) -> float:
        """Return the median of ``rates``, ``p50`` or ``p99``; NaN where nothing was measured."""
        values: list[float] = [each for each in getattr(self, of) if math.isfinite(each)]
        return statistics.median(values) if values else math.nan


Cells = dict[tuple[str, int, str], Cell]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--full", action="store_true", help="longer blocks, and more of them: an hour")
    parser.add_argument("--waiting", type=int, action="append", metavar="N", help="only so many waiting clients; may be given again")
    parser.add_argument("--method", choices=METHODS, action="append", help="only this method; may be given again")
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="only this one; may be given again")
    parser.add_argument("--blocks", type=int, metavar="N", help="of each cell (default 3, 2 of zipf; with --full 9)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of a block (default 0.8; with --full 5)")
    parser.add_argument("--trials", type=int, metavar="N", help="rushes on a cap of 10, of each method (default 10; with --full 40)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N", help=f"of a pool (default {CONNECTIONS} a process)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the ratios."""
    methods = options.method or METHODS
    cells: Cells = defaultdict(Cell)
    with Stage() as stage, ExitStack() as stack:
        setting = stack.enter_context(Setting(stage))
        told = {**setting.tell(), "connections": options.connections}
        clients = [stack.enter_context(Worker("benchmarks.admission.client", told)) for _ in range(PROCESSES)]
        for each in clients:
            each.hear("ready", 30.0)
        runner = _Runner(setting, clients)
        for workload, waiting, seconds in _plan(options):
            for method in methods:
                if waiting <= _most_waiting(method):
                    runner.block(cells[workload, waiting, method], method, workload, waiting, seconds)
        trials = options.trials if options.trials is not None else 40 if options.full else 10
        over = {method: runner.race(method, trials) for method in methods if method not in EVERYSEC}
        for each in clients:
            each.say({"do": "stop"})
            each.hear("done", 30.0)
        from benchmarks.admission import proof

        found = proof.check(pairs=sum(cell.pairs for key, cell in cells.items() if key[2] == OURS))
    print(_tables(cells, options))
    print(_over(over, trials))
    print(_proof(found))
    plots.say(plots.save("admission", lambda axes: _draw(axes, cells), panels=2))
    return _ratios(cells) | {"over_admitted": max(found.over_admitted, over.get(OURS, 0)), "history_clean": not found.findings}


def _plan(options: argparse.Namespace) -> Iterator[tuple[str, int, float]]:
    """Yield the rounds: in each of them every method has a block."""
    seconds = options.seconds or (5.0 if options.full else 0.8)
    for workload in options.workload or WORKLOADS:
        blocks = options.blocks or (9 if options.full else 3 if workload == "hot" else 2)
        for waiting in options.waiting or WAITING:
            for _ in range(blocks):
                yield workload, waiting, seconds


def _most_waiting(method: str) -> int:
    """Beyond 128 there is only more waiting for a connection to be seen."""
    return 128 if method in POOLED else 512


class _Runner:
    """Tells the client processes what to do, and puts together what they say."""

    def __init__(self, setting: Setting, clients: list[Worker]) -> None:
        self._setting = setting
        self._clients = clients

    def block(self, cell: Cell, method: str, workload: str, waiting: int, seconds: float) -> None:
        """Run one."""
        self._setting.prepare(method)
        shares = [waiting // PROCESSES + (i < waiting % PROCESSES) for i in range(PROCESSES)]
        tenants = self._setting.tenants if workload == "zipf" else self._setting.tenants[:1]
        first = 0
        for client, share in zip(self._clients, shares, strict=True):
            what = {"waiting": share, "seconds": seconds, "tenants": tenants, "first": first}
            client.say({"do": "block", "method": method.removesuffix("_everysec"), **what})
            first += share
        heard = [client.hear("result", seconds + 60.0) for client in self._clients]
        late = [ms for each in heard for ms in each["late_ms"]]
        pairs = sum(each["pairs"] for each in heard)
        cell.pairs += pairs
        cell.rates.append(pairs / seconds)
        cell.p50.append(report.percentile(late, 0.5))
        cell.p99.append(report.percentile(late, 0.99))

    def race(self, method: str, trials: int) -> int:
        """Let clients rush for the last slots; return by how many the cap was exceeded in the worst of the trials."""
        self._setting.prepare(method)
        most = 0
        for _ in range(trials):
            rush = {"do": "rush", "method": method, "tenant": self._setting.race, "clients": RUSH}
            got = sum(each["admitted"] for each in self._all(rush))
            most = max(most, got - RACE_LIMIT)
            self._all({"do": "give_back", "method": method})
        return most

    def _all(self, message: Message) -> list[Message]:
        for i, client in enumerate(self._clients):
            client.say({**message, "first": i * RUSH})
        return [client.hear("result", 60.0) for client in self._clients]


# --- what is told ---------------------------------------------------------------------------------------------------------------
def _tables(cells: Cells, options: argparse.Namespace) -> str:
    told = []
    for workload in WORKLOADS:
        waiting = sorted({key[1] for key in cells if key[0] == workload})
        methods = [each for each in METHODS if any(key[0] == workload and key[2] == each for key in cells)]
        if not waiting:
            continue
        for of, unit in (("rates", "pairs/s"), ("p50", "p50 of the admit, ms"), ("p99", "p99 of the admit, ms")):
            rows = [[NAMES[each], *(_shown(cells, (workload, number, each), of) for number in waiting)] for each in methods]
            told.append(report.table([f"{workload}: {unit}", *(f"{number} waiting" for number in waiting)], rows))
    pool = f"(a), (b) and (c) have {options.connections * PROCESSES} connections at most; who asks beyond that waits for one."
    return "\n\n".join(["", *told, pool])


def _shown(cells: Cells, key: tuple[str, int, str], of: str) -> float | int | None:
    if key not in cells:
        return None
    value = cells[key].median(of)
    return round(value) if of == "rates" and math.isfinite(value) else value


def _over(over: dict[str, int], trials: int) -> str:
    rows = [[NAMES[method], count] for method, count in over.items()]
    return "\n" + report.table([f"{trials} rushes on the last {RACE_LIMIT} slots", "above the cap at worst"], rows)


def _proof(found: Any) -> str:
    rows = [[scope, most, limit, above] for scope, most, limit, above in found.used]
    lines = ["", report.table(["ours, by its events", "most in use", "limit", "above it"], rows)]
    lines.append(f"{found.sessions} sessions, {found.events} events; verify_capacity --history: {len(found.findings)} findings")
    return "\n".join([*lines, *found.findings[:5]])


def _ratios(cells: Cells) -> dict[str, Any]:
    def ratio(waiting: int, method: str, of: str = "rates") -> float | None:
        if ("hot", waiting, method) not in cells or ("hot", waiting, OURS) not in cells:
            return None
        theirs = cells["hot", waiting, method].median(of)
        return report.figure(cells["hot", waiting, OURS].median(of) / theirs, 3) if theirs else None

    waiting = sorted({key[1] for key in cells if key[0] == "hot"})
    figures: dict[str, Any] = {
        method: {str(number): found for number in waiting if (found := ratio(number, method)) is not None}
        for method in ("row_lock", "orm", *ALWAYS, *EVERYSEC)
    }
    shares = {str(number): found for number in waiting if (found := ratio(number, "row_lock", "p99")) is not None}
    return figures | {"p99_share_of_row_lock": shares}


def _draw(axes: list[Any], cells: Cells) -> None:
    rates, late = axes
    for number, method in enumerate(METHODS):
        waiting = sorted({key[1] for key in cells if key[0] == "hot" and key[2] == method})
        style = "--" if method in EVERYSEC else "-"
        for where, of in ((rates, "rates"), (late, "p99")):
            values = [cells["hot", each, method].median(of) for each in waiting]
            where.plot(waiting, values, style, marker="o", color=f"C{number}", label=NAMES[method], linewidth=3 if method == OURS else 1.5)
    rates.set(xscale="log", yscale="log", xlabel="waiting clients", ylabel="pairs of admit and release each second")
    late.set(xscale="log", yscale="log", xlabel="waiting clients", ylabel="p99 of the admit, ms")
    for each in axes:
        each.grid(alpha=0.3)
        each.set_xticks(WAITING, [str(number) for number in WAITING])
    rates.legend(fontsize="small")
