"""Become another program that ends when its parent does: ``python -I -S launch.py [options] -- PROGRAM ARGUMENT…``.

Owns: what a child must do to itself before it is the program: lose root's rights, and ask Linux for a signal at the death of its
parent, so that ``kill -9`` of the parent leaves nothing behind. A program of its own rather than ``preexec_fn``, which may deadlock
in a parent with threads. Standard library only, and nothing of this project: it runs by its path, before any environment is set up.
Limits: the signal exists on Linux alone; it follows the parent's *thread*, so start children from a thread that lives on.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set up this process as the options say, then become the program."""
    parser = argparse.ArgumentParser(prog="launch.py")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process id; do not start when it is gone already")
    parser.add_argument("--signal", default="SIGTERM", help="what the program is sent when its parent dies")
    parser.add_argument("--user", type=int, help="user id to become")
    parser.add_argument("--group", type=int, help="group id to become")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of its environment; may be repeated")
    parser.add_argument("program", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    environment = {**os.environ, **dict(assignment.split("=", 1) for assignment in options.set)}
    try:
        if options.user is not None:
            os.setgroups([])
            os.setgid(options.group)
            os.setuid(options.user)
        # After the change of user, which clears it.
        end_with_parent(signal.Signals[options.signal])
        if os.getppid() != options.parent:  # it died before the kernel was told
            sys.exit(1)
        os.execve(program[0], program, environment)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"FATAL:  {program[0]} cannot be started: {error.strerror}")


def end_with_parent(number: signal.Signals) -> None:
    """Ask to be sent this signal when the parent dies (Linux; elsewhere nothing)."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number.value, 0, 0, 0)


if __name__ == "__main__":
    main()
