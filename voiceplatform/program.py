"""A child process as a service of the supervisor: started, heard, asked to stop and in the end killed, with all of its group.

Owns: its pipes, one for what it prints and, of a program that tells when it is up, one for that word.
Refuses: deciding when it is started again, which is the supervisor's.
"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from voiceplatform import processes
from voiceplatform.supervisor import Say, Supervisor

_LONGEST_LINE: Final = 65_536  # bytes; a longer one is cut in two
_TICK_S: Final = 0.2


@dataclass(frozen=True)
class _Pipe:
    ours: int  # to read from
    childs: int  # to write to


def _pipe(unless_started: ExitStack, in_any_case: ExitStack) -> _Pipe:
    """Make a pipe from a child to us; the child's end is closed here in any case, ours where the start fails."""
    ours, childs = os.pipe()
    unless_started.callback(os.close, ours)
    in_any_case.callback(os.close, childs)
    return _Pipe(ours, childs)


class Program:
    """A child process as a service: its lines are printed with its name.

    Args:
        name: what its lines begin with.
        command: the program's path and its arguments.
        supervisor: who reads its output.
        folder: its working directory.
        additions: variables on top of this process's environment.
        patience_s: how long it may take to end after SIGTERM.
        say: who is told its lines instead of the supervisor.
        inherits: file descriptors that stay open in it.
        ready_option: an option of it that takes the number of a pipe, which it writes to when it is up.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        supervisor: Supervisor,
        *,
        folder: Path,
        additions: Mapping[str, str],
        patience_s: float,
        say: Say | None = None,
        inherits: Sequence[int] = (),
        ready_option: str = "",
    ) -> None:
        self.name = name
        self.tells_when_up = bool(ready_option)
        self.process: subprocess.Popen[bytes] | None = None
        self.last_line = ""
        self._command = command
        self._supervisor = supervisor
        self._folder = folder
        self._additions = additions
        self._patience = patience_s
        self._say = say or supervisor.say
        self._inherits = inherits
        self._ready_option = ready_option
        self._kill_at: float | None = None  # it was asked to stop
        self._rest = b""
        self._open_pipes = 0

    @property
    def alive(self) -> bool:
        """Whether it runs; once it does not, no process of its group does."""
        if self.process is None:
            return False
        if self.process.poll() is None:
            return True
        processes.end(self.process)
        return False

    def start(self) -> None:
        """Start it."""
        self._rest, self._kill_at = b"", None
        with ExitStack() as unless_started, ExitStack() as parents_ends:
            reader = _pipe(unless_started, parents_ends)
            command, inherits = list(self._command), list(self._inherits)
            ready = None
            if self._ready_option:
                ready = _pipe(unless_started, parents_ends)
                command += [self._ready_option, str(ready.childs)]
                inherits.append(ready.childs)
            self.process = processes.spawn(command, additions=self._additions, folder=self._folder, output=reader.childs, inherits=inherits)
            unless_started.pop_all()
        self._open_pipes += 1
        self._supervisor.watch(reader.ours, lambda: self._read(reader.ours))
        if ready is not None:
            self._supervisor.watch(ready.ours, lambda: self._hear_ready(ready.ours))

    def ask_to_stop(self) -> None:
        """Send SIGTERM; its patience begins."""
        if self.process is not None and self.process.poll() is None and self._kill_at is None:
            self.process.terminate()
            self._kill_at = time.monotonic() + self._patience

    def stop(self) -> None:
        """Ask it to end, print what it still says, and after its patience, or a second signal to us, kill it and its group."""
        if self.process is None:
            return
        self.ask_to_stop()
        while self.process.poll() is None and self._supervisor.stops < 2 and time.monotonic() < (self._kill_at or 0.0):
            self._supervisor.pump(_TICK_S)
        processes.end(self.process)
        self.drain()

    def run(self) -> int:
        """Start it, wait for its end, and return its exit code.

        Raises:
            Interrupted: a signal asks to stop; it has been killed.
        """
        self.start()
        process = self.process
        assert process is not None
        try:
            while process.poll() is None:
                self._supervisor.pump(_TICK_S)
                self._supervisor.raise_if_stopping()
        finally:
            processes.end(process)
            self.drain()
        return process.returncode

    def drain(self) -> None:
        """Print the rest; its pipe ends now, since its whole group has, but a stray grandchild may hold it: bounded."""
        until = time.monotonic() + 1.0
        while self._open_pipes and time.monotonic() < until:
            self._supervisor.pump(_TICK_S)

    def last_words(self) -> str:
        """Say by what signal or with which code it ended."""
        code = self.process.poll() if self.process is not None else None
        if code is None:
            return "it did not start"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"with exit code {code}" + (f", after the line: {self.last_line}" if code and self.last_line else "")

    def _read(self, pipe: int) -> bool:
        chunk = os.read(pipe, _LONGEST_LINE)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if self._rest and (not chunk or len(self._rest) > _LONGEST_LINE):
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if text:
                self.last_line = text
                self._say(self.name, text)
        if not chunk:
            self._open_pipes -= 1
        return bool(chunk)

    def _hear_ready(self, pipe: int) -> bool:
        if os.read(pipe, 64):
            self._supervisor.mark_up(self.name)
            return True
        return False
