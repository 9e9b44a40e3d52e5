"""``crowd``: do those who talk notice a thousand sockets that never speak and fifty clients that mean harm?

Twenty clients talk all the time, first alone, then beside the crowd; each kind of client has a process of its own. What counts is how late
each of their frames comes back (``talkers`` says what late is), how many never do, and the server's memory before, during and after.
"""

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.crowd.hostile import NAMES
from benchmarks.harness import plots, report
from benchmarks.harness.neighbours import Neighbours
from benchmarks.harness.servers import Sample, WebServer
from benchmarks.harness.stage import Stage
from benchmarks.harness.workers import Message, Worker

SUMMARY: Final = (
    "20 talking clients beside 1,000 silent and 50 hostile ones: how late is each frame? On uvicorn and daphne, in two minutes."
)
SERVERS: Final = ("uvicorn", "daphne")
HOSTILE: Final = tuple(NAMES)
DELAY_MS: Final = 0  # the backend gives audio back at once: what is late is the platform's doing
SETTLE_S: Final = 1.0
RAMP_S: Final = 5.0  # as long as the server leaves a silent socket open, so that as many are renewed at any time
FULL_S: Final = 30.0
REST_S: Final = 3.0  # from the crowd's end to the last look at the memory
LATE_MS: Final = 100.0


@dataclass
class Run:
    """One server's run."""

    server: str
    alone: list[list[float]]  # ms, for each talker; lost ones are infinite
    beside: list[list[float]]
    lag: list[float]
    before: Sample
    after: Sample
    most_rss_mb: float
    rss: list[tuple[float, float]]
    cpu_alone: float
    cpu: float
    others: float
    silent: Message
    hostile: Message
    codes: list[int]
    errors: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--server", choices=SERVERS, action="append", help="only this one; may be given again")
    parser.add_argument("--talkers", type=int, default=20, metavar="N")
    parser.add_argument("--silent", type=int, default=1000, metavar="N")
    parser.add_argument("--hostile", type=int, default=50, metavar="N")
    parser.add_argument("--alone-s", type=float, default=8.0, metavar="S", help="how long they talk alone (default 8)")
    parser.add_argument("--beside-s", type=float, default=18.0, metavar="S", help="how long beside the crowd (default 18)")
    parser.add_argument("--kind", choices=HOSTILE, action="append", help="only this kind of harm; may be given again")
    parser.add_argument("--pause-ms", type=float, default=0.0, metavar="MS", help="before a hostile one comes back (default 0)")
    parser.add_argument("--no-plot", action="store_true", help="leave the last plot as it is")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the figures of each server."""
    runs: list[Run] = []
    with Stage() as stage:
        stage.backend(options=f'{{"delay_ms": {DELAY_MS}}}')
        talking = stage.tenant("talking", max_concurrent_sessions=None, sessions_per_minute=None)
        # They get what they ask for: a limit would keep them from doing harm.
        crowd = stage.tenant("crowd", max_concurrent_sessions=None, sessions_per_minute=None, grace_s=1)
        for server in options.server or SERVERS:
            runs.append(_measure(stage, server, options, talking=talking, crowd=crowd))
            print(f"{server} done; {report.load()}", flush=True)
        found = stage.discrepancies()
    print(_tables(runs))
    if not options.no_plot:
        plots.say(plots.save("crowd", lambda axes: _draw(axes, runs), panels=2))
    for sentence in found:
        print(sentence)
    return {each.server: _figures(each) for each in runs} | {"capacity_clean": not found}


def _measure(stage: Stage, server: str, options: argparse.Namespace, *, talking: int, crowd: int) -> Run:
    with WebServer(stage.folder, server) as web:
        whom = {"port": web.port, "tenant": talking, "clients": options.talkers, "delay_ms": DELAY_MS}
        with Worker("benchmarks.crowd.talkers", whom) as talkers:
            talkers.hear("ready", 30.0)
            _phase(talkers, "settling", SETTLE_S)
            before = web.sample()
            _phase(talkers, "alone", options.alone_s)
            alone = web.sample()
            silent, hostile, cpu, others = _beside(web, talkers, options, crowd)
            _phase(talkers, "rest", REST_S)
            after = web.sample()
            talkers.say({"do": "stop"})
            heard = talkers.hear("result", 30.0)
    phases = heard["phases"]
    return Run(
        server=server,
        alone=_lateness(phases["alone"]),
        beside=_lateness(phases["beside"]),
        lag=phases["beside"]["lag_ms"],
        before=before,
        after=after,
        most_rss_mb=web.most_rss_mb(before),
        rss=[(each.at - before.at, each.rss_mb) for each in web.samples],
        cpu_alone=_busy(before, alone),
        cpu=cpu,
        others=others,
        silent=silent,
        hostile=hostile,
        codes=heard["codes"],
        errors=web.errors(),
    )


def _beside(web: WebServer, talkers: Worker, options: argparse.Namespace, crowd: int) -> tuple[Message, Message, float, float]:
    """Let the crowd come, stay and go.

    Returns:
        What the silent and the hostile ones tell, and what of the processors the server took (percent of one) and what others' programs
        did (percent of all) while all were there.
    """
    whom = {"port": web.port, "tenant": crowd}
    harm = {**whom, "clients": options.hostile, "pause_ms": options.pause_ms, "kinds": options.kind or HOSTILE}
    talkers.say({"do": "phase", "phase": "coming"})
    with (
        Worker("benchmarks.crowd.silent", {**whom, "sockets": options.silent, "ramp_s": min(RAMP_S, options.beside_s)}) as silent,
        Worker("benchmarks.crowd.hostile", harm) as hostile,
    ):
        silent.hear("full", FULL_S)
        full, neighbours = web.sample(), Neighbours()
        _phase(talkers, "beside", options.beside_s)
        cpu, others = _busy(full, web.sample()), neighbours.percent()
        talkers.say({"do": "phase", "phase": "going"})
        silent.say({"do": "stop"})
        hostile.say({"do": "stop"})
        return silent.hear("result", 15.0), hostile.hear("result", 15.0), cpu, others


def _phase(talkers: Worker, name: str, seconds: float) -> None:
    talkers.say({"do": "phase", "phase": name})
    time.sleep(seconds)


def _busy(start: Sample, end: Sample) -> float:
    """Return how much of one processor the server took, in percent."""
    return 100 * (end.cpu_s - start.cpu_s) / max(end.at - start.at, 1e-9)


def _lateness(phase: Message) -> list[list[float]]:
    return [[float("inf") if late is None else late for late in talker] for talker in phase["late_ms"]]


# --- what is told ---------------------------------------------------------------------------------------------------------------
def _flat(talkers: list[list[float]]) -> list[float]:
    return [late for talker in talkers for late in talker]


def _lost(talkers: list[list[float]]) -> int:
    return sum(late == float("inf") for late in _flat(talkers))


def _over(talkers: list[list[float]]) -> int:
    return sum(LATE_MS < late < float("inf") for late in _flat(talkers))


def _tables(runs: list[Run]) -> str:
    columns = ["lateness, ms", "frames", "p50", "p99", "worst talker's p99", "most", f"over {LATE_MS:g} ms", "lost"]
    rows = []
    for each in runs:
        for name, talkers in ((f"{each.server} alone", each.alone), (f"{each.server} beside the crowd", each.beside)):
            late = _flat(talkers)
            worst = max(report.percentile(talker, 0.99) for talker in talkers)
            measured = [report.percentile(late, 0.5), report.percentile(late, 0.99), worst, report.percentile(late, 1)]
            rows.append([name, len(late), *measured, _over(talkers), _lost(talkers)])
        rows.append([f"{each.server}: the talkers' own lag", len(each.lag), *(report.percentile(each.lag, p) for p in (0.5, 0.99))])
        rows[-1] += [None, report.percentile(each.lag, 1), None, None]
    server = ["server", "MiB before", "most", "after", "cpu % alone", "beside", "others' cpu %", "errors logged"]
    machine = [[r.server, r.before.rss_mb, r.most_rss_mb, r.after.rss_mb, r.cpu_alone, r.cpu, r.others, r.errors] for r in runs]
    others = ["crowd on", "silent open (mean)", "fewest", "closed 4400", "hostile tries/s", "refused", "cut", "unanswered", "wrong answers"]
    crowd = [[r.server, r.silent["mean"], r.silent["fewest"], r.silent["codes"].get("4400", 0), *_hostile(r.hostile)] for r in runs]
    return "\n\n".join(["", report.table(columns, rows), report.table(server, machine), report.table(others, crowd)])


def _hostile(told: Message) -> list[object]:
    tries = sum(told["kinds"].values()) / told["seconds"]
    return [tries, told["refused"], told["cut"], told["unanswered"], told["wrong"] or 0]


def _figures(each: Run) -> dict[str, Any]:
    alone, beside = _flat(each.alone), _flat(each.beside)
    return {
        "p50_ms_alone": report.figure(report.percentile(alone, 0.5)),
        "p99_ms_alone": report.figure(report.percentile(alone, 0.99)),
        "p50_ms": report.figure(report.percentile(beside, 0.5)),
        "p99_ms": report.figure(report.percentile(beside, 0.99)),
        "p99_ms_worst_talker": report.figure(max(report.percentile(talker, 0.99) for talker in each.beside)),
        "max_ms": report.figure(max((late for late in beside if late < float("inf")), default=float("nan"))),
        "p99_ms_own_lag": report.figure(report.percentile(each.lag, 0.99)),
        "frames": len(beside),
        "late_over_100ms": _over(each.beside),
        "lost": _lost(each.alone) + _lost(each.beside),
        "talkers_cut": dict(Counter(str(code) for code in each.codes if code != 1000)),
        "rss_mb_before": report.figure(each.before.rss_mb),
        "rss_mb_most": report.figure(each.most_rss_mb),
        "rss_mb_after": report.figure(each.after.rss_mb),
        "cpu_percent_alone": report.figure(each.cpu_alone),
        "cpu_percent": report.figure(each.cpu),
        "others_cpu_percent": report.figure(each.others),
        "silent_mean": report.figure(each.silent["mean"]),
        "hostile_refused": each.hostile["refused"],
        "hostile_cut": each.hostile["cut"],
        "hostile_unanswered": each.hostile["unanswered"],
        "hostile_wrong": each.hostile["wrong"],
        "errors_logged": each.errors,
    }


def _draw(axes: list[Any], runs: list[Run]) -> None:
    lateness, memory = axes
    for number, each in enumerate(runs):
        for talkers, name, style in ((each.alone, "alone", ":"), (each.beside, "beside the crowd", "-")):
            late = sorted(max(ms, 0.1) for ms in _flat(talkers) if ms < float("inf"))
            shares = [(i + 1) / len(late) for i in range(len(late))]
            lateness.plot([1 - share for share in shares[:-1]], late[:-1], style, color=f"C{number}", label=f"{each.server} {name}")
        memory.plot([at for at, _ in each.rss], [mb for _, mb in each.rss], color=f"C{number}", label=each.server)
    lateness.axhline(LATE_MS, color="0.6", linewidth=0.8)
    lateness.axvline(0.01, color="0.6", linewidth=0.8)
    lateness.set(xscale="log", yscale="log", xlabel="share of frames that are later (0.01: p99)", ylabel="ms late")
    lateness.invert_xaxis()
    memory.set(xlabel="seconds", ylabel="the server's resident MiB", ylim=(0, None))
    for each_axes in axes:
        each_axes.legend()
        each_axes.grid(alpha=0.3)
