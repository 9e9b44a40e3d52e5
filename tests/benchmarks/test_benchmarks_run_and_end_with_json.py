"""Each benchmark runs from the command line, in small, and its last line is JSON with its figures. No figure is judged here."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.run import BENCHMARKS
from tests.livekit_server import needs_livekit
from tests.platform.instance import PROJECT

pytestmark = pytest.mark.slow


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.run", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=180)


def figures(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_without_a_name_the_benchmarks_are_listed() -> None:
    run = bench()
    assert run.returncode == 0
    assert all(f"NAME={name} " in run.stdout for name in BENCHMARKS)


def test_an_unknown_name_is_refused() -> None:
    run = bench("nonsense")
    assert run.returncode == 2
    assert "nonsense" in run.stderr


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_the_crowd_is_measured(server: str) -> None:
    small = ["--talkers", "2", "--silent", "5", "--hostile", "14", "--alone-s", "1", "--beside-s", "2", "--pause-ms", "100", "--no-plot"]
    found = figures(bench("crowd", "--server", server, *small))
    assert set(found) == {server, "capacity_clean"}
    mine = found[server]
    assert mine["frames"] > 50
    assert mine["rss_mb_before"] > 0
    assert mine["hostile_refused"] > 0
    assert mine["hostile_wrong"] == {}


def test_admission_is_measured_beside_its_rivals_and_its_history_proved() -> None:
    small = ["--waiting", "2", "--waiting", "8", "--blocks", "1", "--seconds", "0.3", "--trials", "1", "--workload", "hot"]
    found = figures(bench("admission", *small))
    for rival in ("row_lock", "orm", "valkey", "valkey_pipelined", "p99_share_of_row_lock"):
        assert set(found[rival]) == {"2", "8"}
        assert all(ratio > 0 for ratio in found[rival].values())
    assert found["over_admitted"] == 0
    assert found["history_clean"]


@needs_livekit
def test_calls_that_come_at_once_are_measured_on_a_real_livekit_server() -> None:
    found = figures(bench("livekit", "--callers", "3", "--rounds", "1"))
    assert found["attempts"] == 3
    assert found["refused"] == 0
    assert found["active"] == 3
    assert found["token_p99_ms"] > 0
    assert found["capacity_clean"]


def test_growth_is_measured_and_its_history_proved() -> None:
    small = ["--rounds", "1", "--seconds", "0.2", "--ended", "400", "--active", "40", "--tenants", "40", "--queued", "40", "--no-plot"]
    found = figures(bench("growth", *small))
    assert set(found) == {"ended_400", "active_40", "tenants_40", "queued_40", "history_clean"}
    assert all(found[name] > 0 for name in found)
    assert found["history_clean"] is True


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_a_stampede_is_answered_and_its_history_proved(server: str) -> None:
    small = ["--server", server, "--clients", "40", "--cap", "10", "--queue", "10", "--rounds", "1", "--no-plot"]
    found = figures(bench("stampede", *small))
    assert (found["started"], found["queued"], found["queue_full"], found["wrong"]) == (10, 10, 20, 0)
    assert 0 < found["p50_s"] <= found["p99_s"] <= found["last_answer_s"] + 0.1
    assert found["history_clean"] is True
