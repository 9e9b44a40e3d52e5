"""Child processes that are direct children, in a session of their own, and end when this process does.

Owns: starting and stopping one child within bounded time, and the lock that keeps a folder to one process.
Refuses: shells and daemons. Limits: a child gets its death signal when the *thread* that started it ends: start from the main thread.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True)
class Owner:
    """Whom a child becomes: user and group id."""

    user: int
    group: int


class FolderInUseError(Exception):
    """Another process holds the lock."""


def spawn(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    additions: Mapping[str, str] | None = None,
    folder: Path,
    output: int | IO[bytes],
    death_signal: signal.Signals = signal.SIGKILL,
    owner: Owner | None = None,
    inherits: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program.

    Args:
        command: the program's path and its arguments.
        environment: all of the child's environment; None for this process's.
        additions: variables on top of it; not for secrets, since they pass through the command line of the launcher.
        folder: its working directory.
        output: where its standard output and error go, a file or ``subprocess.PIPE``.
        death_signal: what it is sent when this process dies.
        owner: whom it becomes; only root may ask for another.
        inherits: file descriptors that stay open in it, under the same numbers.
    """
    options = ["--parent", str(os.getpid()), "--signal", death_signal.name]
    for name, value in (additions or {}).items():
        options += ["--set", f"{name}={value}"]
    if owner is not None:
        options += ["--user", str(owner.user), "--group", str(owner.group)]
    return subprocess.Popen(  # noqa: S603 - no shell, no text of users
        [sys.executable, "-I", "-S", str(_LAUNCH), *options, "--", *map(str, command)],
        env=None if environment is None else dict(environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=inherits,
    )


def end(process: subprocess.Popen[bytes], *signals: tuple[signal.Signals, float]) -> None:
    """Stop a child: each signal in turn with its patience in seconds, then SIGKILL for it and for all of its process group."""
    for number, patience in signals:
        if process.poll() is not None:
            break
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)
    # Its own children too; the group lives on while one of them does, even after the child has ended.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class FolderLock:
    """An advisory lock on a file, given back by the kernel however the holder ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._file is not None

    def take(self) -> None:
        """Take the lock; a second call of the holder changes nothing.

        Raises:
            FolderInUseError: another process holds it.
            OSError: the file cannot be made.
        """
        if self._file is not None:
            return
        file = self._path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise FolderInUseError(str(self._path)) from None
        except BaseException:
            file.close()
            raise
        self._file = file

    def release(self) -> None:
        """Give it back; the file stays, since to remove a lock file is a race."""
        if self._file is not None:
            # Not by closing alone: a child that another thread is just starting has the file, too, until it runs its own program.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None
