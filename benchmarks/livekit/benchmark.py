"""``livekit``: how long do fifty people who call at once wait for the token of their room, and do all of their sessions become active?

A real livekit-server on this machine, which tells the web server by webhooks; a session is active when the webhook of its user's joining
was processed. Each round: all call at once, all join, all are active, all leave, every slot and room is given back, and the
machine has gone quiet. The first round is reported apart: then the process opens its connections.
"""

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any, Final

import psutil

from benchmarks.harness import report
from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.neighbours import Neighbours
from benchmarks.harness.servers import WebServer
from benchmarks.harness.stage import Stage
from benchmarks.harness.workers import Message, Worker
from benchmarks.livekit.webhooks import answer_times_ms
from voiceplatform.embedded import EmbeddedError
from voiceplatform.embedded.livekit import LiveKit

SUMMARY: Final = "50 sessions opened at once against a real livekit-server: attempt to token, all active by webhook. One minute."
BACKEND: Final = "livekit"
HEALTHY_S: Final = 30.0
START_S: Final = 20.0
WEBHOOKS: Final = 300
TOKENS_S: Final = 60.0
JOINED_S: Final = 120.0
ACTIVE_S: Final = 30.0
ENDED_S: Final = 30.0
LOOK_S: Final = 0.01
QUIET_S: Final = 10.0
IDLE_LOOK_S: Final = 0.5
IDLE_PERCENT: Final = 15.0


@dataclass
class Round:
    """One round's figures; times are in ms."""

    from_dial: list[float]
    from_start: list[float]
    join: list[float]
    all_tokens: float
    active: int
    all_active: float  # from the last one's entering its room
    refused: list[str]
    others: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--callers", type=int, default=50, metavar="N", help="who call at once (default 50)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="after the first (default 5)")
    parser.add_argument("--server", choices=("uvicorn", "daphne"), default="uvicorn")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, and return the figures."""
    with Stage() as stage:
        web = WebServer(stage.folder, options.server)
        livekit = LiveKit(stage.folder, webhooks=[f"http://127.0.0.1:{web.port}/webhooks/livekit/{BACKEND}/"])
        try:
            livekit.start()
            rounds, webhooks = _measure(stage, web, livekit, options)
        except EmbeddedError as error:
            raise BenchmarkError(str(error)) from error
        finally:
            livekit.kill()
        found = stage.discrepancies()
    for sentence in found:
        print(sentence)
    print(_table(rounds, webhooks))
    return _figures(rounds, webhooks, clean=not found)


def _measure(stage: Stage, web: WebServer, livekit: LiveKit, options: argparse.Namespace) -> tuple[list[Round], list[float]]:
    stage.manage(
        "set_backend",
        BACKEND,
        "provider=livekit",
        f"options={json.dumps({'url': livekit.url, 'agent_timeout_s': 0})}",
        f"secrets={json.dumps({'api_key': livekit.key, 'api_secret': livekit.secret})}",
        'transports=["webrtc"]',
        f"cap={options.callers}",
    )
    tenant = stage.tenant("crowd", max_concurrent_sessions=options.callers, sessions_per_minute=None)
    with web:
        _await(_is_healthy, HEALTHY_S, "The backend did not become healthy")
        told = {"port": web.port, "tenant": tenant, "callers": options.callers}
        rounds = [_round({**told, "round": number}) for number in range(1 + options.rounds)]
        _await_idle(QUIET_S)
        path = f"/webhooks/livekit/{BACKEND}/"
        return rounds, answer_times_ms(port=web.port, path=path, key=livekit.key, secret=livekit.secret, count=WEBHOOKS)


def _round(told: dict[str, Any]) -> Round:
    # A client process of its own: what fifty WebRTC clients leave behind in theirs would be taken for the platform's.
    with Worker("benchmarks.livekit.callers", told) as callers:
        callers.hear("ready", START_S)
        _await_idle(QUIET_S)
        neighbours = Neighbours()
        callers.say({"do": "call"})
        tokens = callers.hear("tokens", TOKENS_S)
        others = neighbours.percent()
        joined: Message = callers.hear("joined", JOINED_S)
        joined_at = time.monotonic()
        expected = len(joined["from_dial_ms"])
        _await(lambda: _in_state("active") >= expected, ACTIVE_S, "Not all sessions became active")
        active_at, active = time.monotonic(), _in_state("active")
        callers.say({"do": "leave"})
        callers.hear("left", ENDED_S)
        _await(lambda: not _held(), ENDED_S, "Not all slots were given back")
        _await(_is_over, ENDED_S, "Not all rooms were seen to be closed")
    return Round(
        from_dial=joined["from_dial_ms"],
        from_start=joined["from_start_ms"],
        join=joined["join_ms"],
        all_tokens=tokens["all_ms"],
        active=active,
        all_active=1000 * (active_at - joined_at),
        refused=joined["refused"],
        others=others,
    )


def _is_healthy() -> bool:
    from sessions_app.models import BackendHealth

    return BackendHealth.objects.filter(backend__name=BACKEND, status=BackendHealth.Status.HEALTHY).exists()


def _in_state(state: str) -> int:
    from sessions_app.models import Session

    return Session.objects.filter(state=state).count()


def _held() -> int:
    from sessions_app.models import Slot

    return Slot.objects.count()


def _is_over() -> bool:
    """Whether nothing of the round is left to do: the next one would pay for it."""
    from sessions_app.models import Room, WebhookEvent

    return not Room.objects.filter(closed_at=None).exists() and not WebhookEvent.objects.filter(processed_at=None).exists()


def _await_idle(seconds: float) -> None:
    """Wait until the machine does little (fifty WebRTC connections take a while to go away), but no longer than this."""
    until = time.monotonic() + seconds
    while psutil.cpu_percent(IDLE_LOOK_S) > IDLE_PERCENT and time.monotonic() < until:
        pass


def _await(condition: Any, seconds: float, complaint: str) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise BenchmarkError(f"{complaint} within {seconds:g} s.")
        time.sleep(LOOK_S)


# --- what is told ---------------------------------------------------------------------------------------------------------------
def _table(rounds: list[Round], webhooks: list[float]) -> str:
    columns = ["ms", "times", "p50", "p99", "most"]
    first, rest = rounds[0], rounds[1:] or rounds
    rows: list[list[object]] = []
    for name, values in (
        ("first round: attempt to token", first.from_dial),
        ("attempt to token", [each for one in rest for each in one.from_dial]),
        ("session.start to token", [each for one in rest for each in one.from_start]),
        ("token to being in the room", [each for one in rest for each in one.join]),
        ("webhook to its answer, one by one", webhooks),
    ):
        rows.append([name, len(values), *(report.percentile(values, share) for share in (0.5, 0.99, 1))])
    by_round = ["round", "active", "refused", "all tokens, ms", "all active after the last join, ms", "others' cpu %"]
    told = [[number, each.active, len(each.refused), each.all_tokens, each.all_active, each.others] for number, each in enumerate(rounds)]
    return "\n\n".join(["", report.table(columns, rows), report.table(by_round, [[str(row[0]), *row[1:]] for row in told])])


def _figures(rounds: list[Round], webhooks: list[float], *, clean: bool) -> dict[str, Any]:
    rest = rounds[1:] or rounds
    from_dial = [each for one in rest for each in one.from_dial]
    from_start = [each for one in rest for each in one.from_start]
    return {
        "attempts": len(from_dial),
        "refused": sum(len(each.refused) for each in rounds),
        "token_p50_ms": report.figure(report.percentile(from_dial, 0.5)),
        "token_p99_ms": report.figure(report.percentile(from_dial, 0.99)),
        "token_p99_ms_first_round": report.figure(report.percentile(rounds[0].from_dial, 0.99)),
        "start_to_token_p50_ms": report.figure(report.percentile(from_start, 0.5)),
        "start_to_token_p99_ms": report.figure(report.percentile(from_start, 0.99)),
        "all_active_ms": report.figure(max(each.all_active for each in rest)),
        "active": min(each.active for each in rounds),
        "webhook_p50_ms": report.figure(report.percentile(webhooks, 0.5)),
        "webhook_p99_ms": report.figure(report.percentile(webhooks, 0.99)),
        "others_cpu_percent": report.figure(max(each.others for each in rest)),
        "capacity_clean": clean,
    }
