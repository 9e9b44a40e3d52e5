"""What dies is started again, later each time; what cannot start ends it all."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from voiceplatform import supervisor
from voiceplatform.program import Program
from voiceplatform.supervisor import CannotStartError, Restarts, Supervisor


class Console:
    """Keeps what would be printed."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.lines.append((name, line))


@pytest.fixture
def console() -> Console:
    return Console()


@pytest.fixture
def running(console: Console) -> Iterator[Supervisor]:
    made = Supervisor(console, first_delay_s=0.01)
    with made.signals():
        yield made
        made.stop()


def program(made: Supervisor, code: str, *, name: str = "child", patience_s: float = 10.0, ready_option: str = "") -> Program:
    command = [sys.executable, "-u", "-c", code]
    return Program(name, command, made, folder=Path.cwd(), additions={}, patience_s=patience_s, ready_option=ready_option)


def test_each_wait_is_twice_the_last_up_to_half_a_minute() -> None:
    restarts, now, waits = Restarts(started=0.0, up=True), 0.0, []
    for _ in range(7):
        assert restarts.died(now)
        assert restarts.start_at is not None
        waits.append(restarts.start_at - now)
        now = restarts.start_at
        restarts.starts(now)
    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_who_lived_a_minute_waits_for_the_first_time_again() -> None:
    restarts = Restarts(started=0.0, delay=16.0, up=True)
    restarts.died(60.0)
    assert restarts.start_at == 61.0


def test_five_early_deaths_are_one_too_many_unless_it_has_been_up() -> None:
    never_up, once_up = Restarts(started=0.0), Restarts(started=0.0, up=True)
    assert [never_up.died(4.0) for _ in range(5)] == [True, True, True, True, False]
    assert all(once_up.died(4.0) for _ in range(10))


def test_a_later_death_begins_the_count_anew() -> None:
    restarts = Restarts(started=0.0)
    assert [restarts.died(now) for now in (1.0, 1.0, 1.0, 1.0, 6.0, 1.0)] == [True] * 6


def test_the_death_of_one_that_tells_is_early_until_it_has_told() -> None:
    restarts = Restarts(started=0.0, tells_when_up=True)
    restarts.lives(50.0)
    assert [restarts.died(50.0) for _ in range(5)] == [True, True, True, True, False]
    restarts.up = True
    assert restarts.died(50.0)


def test_one_that_does_not_tell_is_up_after_a_while() -> None:
    restarts = Restarts(started=0.0)
    restarts.lives(4.9)
    assert not restarts.up
    restarts.lives(5.0)
    assert restarts.up


def test_a_program_tells_by_its_pipe_that_it_is_up(running: Supervisor, console: Console) -> None:
    code = "import os, sys, time; print('here'); os.write(int(sys.argv[-1]), b'up'); time.sleep(60)"
    children = [program(running, code, name=name, ready_option="--ready-fd") for name in ("one", "two")]
    silent = program(running, "import time; print('here'); time.sleep(60)", name="silent", ready_option="--ready-fd")
    running.add(*children, silent)
    while running.missing("one", "two", "silent") != ["silent"] or ("silent", "here") not in console.lines:
        running.pump(1.0)
    assert running.missing("two", "one") == []


def test_what_cannot_start_ends_it_all_with_its_last_words(running: Supervisor) -> None:
    running.add(program(running, "print('no such thing'); raise SystemExit(3)"))
    with pytest.raises(CannotStartError, match="child cannot start: it ended 5 times, with exit code 3, after the line: no such thing"):
        running.run(lambda: None)


def test_a_killed_child_is_started_again(running: Supervisor, console: Console) -> None:
    child = program(running, "import time; print('here'); time.sleep(60)")
    running.add(child)

    killed: list[int] = []

    def kill_once() -> None:
        here = sum(line == "here" for _, line in console.lines)
        if here == 1 and not killed and child.process is not None:
            killed.append(child.process.pid)
            child.process.kill()
        if here == 2:
            signal.raise_signal(signal.SIGTERM)

    running.run(kill_once)
    assert ("up", "child ended, killed by SIGKILL; it is started again in 0 s") in console.lines


def test_a_child_that_ignores_sigterm_is_killed_after_its_patience(running: Supervisor, console: Console) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here'); time.sleep(60)"
    child = program(running, code, patience_s=0.1)
    running.add(child)
    while ("child", "here") not in console.lines:
        running.pump(1.0)
    child.stop()
    assert child.process is not None
    assert child.process.returncode == -signal.SIGKILL


def test_grandchildren_end_with_a_killed_child(running: Supervisor, console: Console) -> None:
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); print(p.pid); p.wait()"
    child = program(running, code, patience_s=0.1)
    running.add(child)
    while not console.lines:
        running.pump(1.0)
    child.stop()
    assert not Path(f"/proc/{console.lines[0][1]}/exe").exists()


def test_what_a_child_says_last_is_printed_though_no_newline_ends_it(running: Supervisor, console: Console) -> None:
    assert program(running, "import sys; sys.stdout.write('one\\ntwo')").run() == 0
    assert console.lines == [("child", "one"), ("child", "two")]


def test_services_stop_in_the_opposite_order_of_their_start(running: Supervisor, console: Console) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye'))); print('here'); time.sleep(60)"
    for name in ("first", "second"):
        running.add(program(running, code, name=name))
    while sum(line == "here" for _, line in console.lines) < 2:
        running.pump(1.0)
    running.stop()
    assert [name for name, line in console.lines if line == "bye"] == ["second", "first"]


def test_services_that_were_added_together_are_told_to_stop_at_the_same_time(running: Supervisor, console: Console, tmp_path: Path) -> None:
    # Each ends when it knows that the other was told too.
    code = """
import pathlib, signal, sys, time
mine, other = map(pathlib.Path, ({mine!r}, {other!r}))
def told(*_):
    mine.touch()
    while not other.exists():
        time.sleep(0.01)
    sys.exit()
signal.signal(signal.SIGTERM, told)
print('here')
time.sleep(60)
"""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    children = [program(running, code.format(mine=mine, other=other), name=mine) for mine, other in ((one, two), (two, one))]
    running.add(*children)
    while sum(line == "here" for _, line in console.lines) < 2:
        running.pump(1.0)
    running.stop()
    assert [child.process.returncode for child in children if child.process is not None] == [0, 0]


def test_who_reads_nothing_any_more_has_it_all_stop() -> None:
    def closed(_name: str, _line: str) -> None:
        raise BrokenPipeError

    made = Supervisor(closed)
    made.say("up", "anything")
    assert made.stops == 1


def test_lines_begin_with_the_name_of_who_speaks() -> None:
    assert supervisor.prefixed("web", "hello") == "web    | hello"
