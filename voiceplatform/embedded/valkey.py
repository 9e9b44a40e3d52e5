"""One Valkey on 127.0.0.1 with a password, durable within a second (append-only file), as a direct child.

Owns: its folder, configuration, port and password. Refuses: a second start on the same folder, other machines' connections.
Limits: acknowledged writes of the last second may be lost when the machine dies (not when the process does): it holds messages
and the task queue, never the truth.
"""

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import redis

from voiceplatform import processes
from voiceplatform.embedded import binaries
from voiceplatform.embedded.errors import EmbeddedError, StoreInUseError
from voiceplatform.embedded.files import append, kept_password, last_words, private_folder

_START_S: Final = 30.0
_STOP_S: Final = 10.0
_TICK_S: Final = 0.01
_PORT_TRIES: Final = 5


class Valkey:
    """An embedded Valkey in ``folder``; start, stop and start again as often as needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "valkey"
        self._lock = processes.FolderLock(folder / "valkey.lock")
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        """Where it answers, password included; the same after a restart of this object."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it and wait until it answers; nothing happens where it runs already.

        Raises:
            StoreInUseError: another process runs it on this folder.
            EmbeddedError: it cannot run; the message says why.
        """
        if self.pid is not None:
            return
        try:
            private_folder(self._folder)
            self._lock.take()
            self._password = kept_password(self._folder / "password")
            self._start(binaries.find_valkey())
        except processes.FolderInUseError:
            raise StoreInUseError(f"Valkey already runs on {self._folder.parent}.") from None
        except OSError as error:
            self.stop()
            raise EmbeddedError(f"Valkey cannot be set up: {error.strerror} ({error.filename}).") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it, all on disk, within 10 s or else by SIGKILL."""
        if self._process is not None:
            processes.end(self._process, (signal.SIGTERM, _STOP_S))
            self._process = None
        self._lock.release()

    def _start(self, program: Path) -> None:
        """Start on the port it had, else on a free one: another process may take a free port first, so try again."""
        log = self._folder / "valkey.log"
        fixed, began = self._port != 0, 0
        for _ in range(1 if fixed else _PORT_TRIES):
            self._port = self._port if fixed else _free_port()
            with append(log) as output:
                began = output.tell()
                self._process = processes.spawn(
                    [program, self._configure()], environment={}, folder=self._folder, output=output, death_signal=signal.SIGTERM
                )
            if self._answers(self._process):
                return
        raise EmbeddedError(f"Valkey did not start: {last_words(log, began)} (all of it in {log})")

    def _configure(self) -> Path:
        path = self._folder / "valkey.conf"
        settings = {
            "bind": "127.0.0.1",
            "port": self._port,
            "requirepass": self._password,
            "dir": "./",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "daemonize": "no",
        }
        path.touch(mode=0o600)
        path.write_text("".join(f"{name} {value}\n" for name, value in settings.items()), encoding="utf-8")
        return path

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for an answer to PING; False once the process has ended."""
        until = time.monotonic() + _START_S
        with redis.Redis.from_url(self.url, socket_timeout=1.0, retry=None) as client:
            while time.monotonic() < until:
                try:
                    client.ping()
                except redis.RedisError:
                    try:
                        process.wait(timeout=_TICK_S)
                    except subprocess.TimeoutExpired:
                        continue
                    return False
                return process.poll() is None
        raise EmbeddedError(f"Valkey did not answer within {_START_S:.0f} s.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
