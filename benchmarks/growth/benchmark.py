"""``growth``: pairs of an admission and a release each second with much history, many live sessions, many tenants and long queues.

The product's batcher and ledger in two client processes, 64 clients waiting. The smallest case has no history, 10 live sessions, 10 tenants
and nobody in the queue. Each other case differs from it in one thing, in a database of its own on the same PostgreSQL; its blocks take
turns with blocks of the smallest case, so that what else the machine does hits both alike. Ratios are medians of those of neighbours.

Live sessions and waiters are begun by the ledger. Tenants and history come in bulk: each session that is over has the two events that a
pair of this benchmark writes. Those in the queue cannot be let in, which costs most: they are looked at again and again. They are

- another tenant's, whose limit is 0;
- the asking tenants' own, for a backend that is full;
- the asking tenants' own, of one user of each, whose limit is reached.
"""

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.admission.setting import Healthy
from benchmarks.growth.databases import Database
from benchmarks.harness import plots, report
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.stage import Stage

SUMMARY: Final = "admissions beside 10 million ended sessions, 10,000 active ones, 10,000 tenants, 10,000 waiters; in ten minutes."
WAITING: Final = 64
TENANTS: Final = 10
ACTIVE: Final = 10
CAP: Final = 40_000  # of platform, backend and tenants: in force, and never reached
USER_LIMIT: Final = 2
RATE: Final = 100_000_000  # sessions a minute; the same
BYTES_OF_A_SESSION: Final = 1_600  # with events, indexes and log; see the README
ENDED, LIVE, MANY, QUEUED = "ended", "active", "tenants", "queued"


@dataclass
class Case:
    """One case beside the smallest: the pairs a second of each of its blocks, and of the smallest case's block before it."""

    of: str
    count: int
    name: str
    rates: list[float] = field(default_factory=list)
    smallest: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How much of the smallest case's speed there is."""
        return statistics.median(mine / its for mine, its in zip(self.rates, self.smallest, strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--full", action="store_true", help="longer blocks, more of them, and all of the history replayed: an hour")
    parser.add_argument("--rounds", type=int, metavar="N", help="blocks of each case (default 5; with --full 15)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of a block (default 1.5; with --full 5)")
    for of, most in ((ENDED, 10_000_000), (LIVE, 10_000), (MANY, 10_000), (QUEUED, 10_000)):
        parser.add_argument(f"--{of}", type=int, default=most, metavar="N", help=f"the largest case (default {most:,}; 0: none)")
    parser.add_argument("--no-plot", action="store_true", help="leave the last plot as it is")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the ratios."""
    with Stage() as stage:
        growth = _Growth(stage, options)
        with Database(growth.template, "smallest") as smallest:
            smallest.add(ACTIVE, growth.tenants, user="held-{}", state="active")
            growth.smallest = smallest
            for of, measure in ((LIVE, growth.live), (QUEUED, growth.queued), (MANY, growth.many), (ENDED, growth.ended)):
                if getattr(options, of):
                    measure(getattr(options, of))
            growth.findings += smallest.verify(history=True)
    print(_table(growth.cases))
    print(*growth.notes, sep="\n")
    if not options.no_plot:
        plots.say(plots.save("growth", lambda axes: _draw(axes, growth.cases), panels=2))
    print(*growth.findings[:5], sep="\n")
    return _ratios(growth.cases) | {"history_clean": not growth.findings}


class _Growth:
    def __init__(self, stage: Stage, options: argparse.Namespace) -> None:
        self._full = options.full
        self._folder = stage.folder
        self._rounds = options.rounds or (15 if options.full else 5)
        self._seconds = options.seconds or (5.0 if options.full else 1.5)
        self.cases: list[Case] = []
        self.findings: list[str] = []
        self.notes: list[str] = []
        self.smallest: Database
        stage.manage("set_platform", f"max_concurrent_sessions={CAP}")
        stage.backend(cap=CAP)
        stage.backend("full", cap=0)
        quota = {"max_sessions_per_user": USER_LIMIT, "sessions_per_minute": RATE, "max_queue_length": None}
        self.tenants = [stage.tenant(f"tenant-{i}", max_concurrent_sessions=CAP, **quota) for i in range(TENANTS)]
        self.other = stage.tenant("other", max_concurrent_sessions=0, **quota)
        with Healthy():
            pass  # probed once
        from sessions_app.models import Backend

        self.backend: int = Backend.objects.get(name="loopback").pk
        self.template = os.environ["DATABASE_URL"]

    def live(self, most: int) -> None:
        """With more and more live sessions, of the tenants that ask."""
        with self._copy(LIVE, self.tenants) as database:
            have = ACTIVE
            for count in _steps(most):
                database.add(count - have, self.tenants, user=f"of-{count}-{{}}", state="active")
                have = count
                self._measure(database, Case(LIVE, count, f"{count:,} active"), self.tenants)

    def queued(self, most: int) -> None:
        """With longer and longer queues, of three kinds."""
        with self._copy(QUEUED, self.tenants) as database:
            for count in _steps(most):
                for name, tenants, user, backend in (
                    ("another tenant's", [self.other], "waits-{}", ""),
                    ("own, for a full backend", self.tenants, "waits-{}", "full"),
                    ("own, of a user at the limit", self.tenants, "greedy", ""),
                ):
                    if user == "greedy":
                        database.add(USER_LIMIT * len(tenants), tenants, user=user, state="active")
                    database.add(count, tenants, user=user, backend=backend, state="queued")
                    self._measure(database, Case(QUEUED, count, f"{count:,} queued: {name}"), self.tenants)
                    database.drop()
                    database.add(ACTIVE, self.tenants, user="held-{}", state="active")

    def many(self, most: int) -> None:
        """With more and more tenants, who all ask, by zipf."""
        with self._copy(MANY, self.tenants) as database:
            tenants = [*self.tenants]
            for count in _steps(most):
                tenants += database.add_tenants(count - len(tenants), like=self.tenants[0])
                database.settle()
                self._measure(database, Case(MANY, count, f"{count:,} tenants"), tenants)
            # What costs is how many of them a batch is for, not how many there are.
            self._measure(database, Case(MANY, most, f"{most:,} tenants, of whom {TENANTS} ask"), self.tenants)

    def ended(self, most: int) -> None:
        """With longer and longer history."""
        with self._copy(ENDED, self.tenants, verify=False) as database:
            if shutil.disk_usage(self._folder).free < most * BYTES_OF_A_SESSION:
                raise BenchmarkError(f"{most:,} sessions need {most * BYTES_OF_A_SESSION / 1e9:.0f} GB of disk.")
            for count in _steps(most):
                began = time.monotonic()
                database.fill(count, of=most, tenants=self.tenants, backend=self.backend, say=lambda done: _say(f"{done:,} sessions"))
                filled_s = time.monotonic() - began
                self._measure(database, Case(ENDED, count, f"{count:,} ended"), self.tenants)
                self.notes.append(f"{count:,} ended sessions with their events: filled in {filled_s:.0f} s, {database.size_gb():.1f} GB")
                if count < most or self._full or most < 100_000:
                    self.findings += database.verify(history=True)

    @contextmanager
    def _copy(self, name: str, tenants: list[int], *, verify: bool = True) -> Iterator[Database]:
        with Database(self.template, name) as database:
            database.add(ACTIVE, tenants, user="held-{}", state="active")
            yield database
            if verify:
                self.findings += database.verify(history=True)

    def _measure(self, database: Database, case: Case, tenants: list[int]) -> None:
        self.findings += database.verify(history=False) if case.of != ENDED else []
        for warm in (True, *[False] * self._rounds):
            its = self.smallest.block(self.tenants, WAITING, self._seconds)
            mine = database.block(tenants, WAITING, self._seconds)
            if not warm:
                case.smallest.append(its["rate"])
                case.rates.append(mine["rate"])
                case.late_ms += mine["late_ms"]
        self.cases.append(case)
        _say(f"{case.name}: {case.ratio:.2f} of the smallest; {report.load()}")


def _steps(most: int) -> list[int]:
    """Return the cases of a kind: a tenth of the largest, and the largest."""
    return [most // 10, most] if most >= 200 else [most]


def _say(what: str) -> None:
    print(what, flush=True)


# --- what is told ---------------------------------------------------------------------------------------------------------------
def _table(cases: list[Case]) -> str:
    columns = ["case", "pairs/s", "smallest beside it", "ratio", "least", "most", "p50 of the admit, ms", "p99"]
    rows = []
    for each in cases:
        ratios = [mine / its for mine, its in zip(each.rates, each.smallest, strict=True)]
        late = [report.percentile(each.late_ms, share) for share in (0.5, 0.99)]
        rates = [round(statistics.median(each.rates)), round(statistics.median(each.smallest))]
        rows.append([each.name, *rates, *(f"{value:.2f}" for value in (each.ratio, min(ratios), max(ratios))), *late])
    return "\n" + report.table(columns, rows)


def _short(count: int) -> str:
    for size, letter in ((1_000_000, "m"), (1_000, "k")):
        if count >= size and not count % size:
            return f"{count // size}{letter}"
    return str(count)


def _ratios(cases: list[Case]) -> dict[str, Any]:
    """Return the ratio of the largest case of each kind; of several, that of the one that costs most."""
    found: dict[str, Any] = {}
    for of in (ENDED, LIVE, MANY, QUEUED):
        most = max((each.count for each in cases if each.of == of), default=None)
        if most is not None:
            found[f"{of}_{_short(most)}"] = report.figure(min(each.ratio for each in cases if each.of == of and each.count == most), 3)
    return found


def _draw(axes: list[Any], cases: list[Case]) -> None:
    bars, blocks = axes
    names = [each.name for each in cases]
    bars.barh(names, [each.ratio for each in cases])
    bars.axvline(1.0, color="0.6", linewidth=0.8)
    bars.invert_yaxis()
    bars.set(xlabel="of the smallest case's pairs a second")
    blocks.boxplot([[m / s for m, s in zip(each.rates, each.smallest, strict=True)] for each in cases], orientation="horizontal")
    blocks.set_yticks(range(1, len(cases) + 1), [""] * len(cases))
    blocks.invert_yaxis()
    blocks.set(xlabel="the same, of each block")
    for each in axes:
        each.grid(alpha=0.3)
