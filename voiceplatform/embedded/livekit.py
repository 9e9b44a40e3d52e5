"""One livekit-server on 127.0.0.1, for development and tests, as a direct child: its media does not leave this machine.

Owns: its folder, configuration (which holds the keys, so it is 0600), ports and API key. Rooms are made by its API only, never by whoever
joins, unless it is told otherwise.
Refuses: being found by other machines; production has a LiveKit of its own.
Limits: a single node without Redis: when it ends, all rooms are gone. Told to stop it would wait for as long as anybody is in a room, so it
is told twice.
"""

import contextlib
import json
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from voiceplatform import processes
from voiceplatform.embedded import livekit_program
from voiceplatform.embedded.errors import EmbeddedError, StoreInUseError
from voiceplatform.embedded.files import append, last_words, private_folder, write_private

HOST: Final = "127.0.0.1"
_START_S: Final = 30.0
_PATIENCE_S: Final = (0.5, 3.0)  # after the first wish to stop, and after the second
_TICK_S: Final = 0.02
_PORT_TRIES: Final = 5
_KEY_BYTES: Final = 8
_SECRET_BYTES: Final = 32  # the least that HS256 should have


class LiveKit:
    """An embedded livekit-server in ``folder``; start, stop, kill and start again as often as needed, on the ports that it had.

    Args:
        folder: the data folder; an existing one.
        webhooks: addresses that are told what happens.
        auto_create: whether a join makes the room that it names.
        keys: API keys and their secrets; None: one that is made once and kept in the folder. The first signs webhooks.
    """

    def __init__(
        self, folder: Path, *, webhooks: Sequence[str] = (), auto_create: bool = False, keys: Mapping[str, str] | None = None
    ) -> None:
        self._folder = folder / "livekit"
        self._lock = processes.FolderLock(folder / "livekit.lock")
        self._webhooks = list(webhooks)
        self._auto_create = auto_create
        self._keys = dict(keys or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: tuple[int, int] | None = None  # signalling, media

    @property
    def url(self) -> str:
        """Where clients find it; the same after a restart of this object."""
        return f"ws://{HOST}:{self._ports[0] if self._ports else 0}"

    @property
    def key(self) -> str:
        """Its first API key."""
        return next(iter(self._keys), "")

    @property
    def secret(self) -> str:
        """That key's secret."""
        return self._keys.get(self.key, "")

    @property
    def log(self) -> Path:
        """What it has said."""
        return self._folder / "livekit.log"

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
        program = livekit_program.find()
        if program is None:
            raise EmbeddedError(f"There is no livekit-server here. {livekit_program.WHERE}")
        try:
            private_folder(self._folder)
            self._lock.take()
            self._keys = self._keys or self._kept_keys()
            self._start(program)
        except processes.FolderInUseError:
            raise StoreInUseError(f"livekit-server already runs on {self._folder.parent}.") from None
        except OSError as error:
            self.stop()
            raise EmbeddedError(f"livekit-server cannot be set up: {error.strerror} ({error.filename}).") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop it within seconds, whoever is in its rooms."""
        if self._process is not None:
            processes.end(self._process, *((signal.SIGTERM, patience_s) for patience_s in _PATIENCE_S))
            self._process = None
        self._lock.release()

    def kill(self) -> None:
        """End it with SIGKILL, as if its machine had failed."""
        if self._process is not None:
            processes.end(self._process)
            self._process = None
        self._lock.release()

    def _start(self, program: Path) -> None:
        """Start on the ports that it had, else on free ones: another process may take a free port first, so try again."""
        fixed, began = self._ports is not None, 0
        for _ in range(1 if fixed else _PORT_TRIES):
            self._ports = self._ports if fixed else _free_ports()
            with append(self.log) as output:
                began = output.tell()
                self._process = processes.spawn(
                    [program, "--config", self._configure()],
                    environment={},
                    folder=self._folder,
                    output=output,
                    death_signal=signal.SIGKILL,
                )
            if self._answers(self._process):
                return
        raise EmbeddedError(f"livekit-server did not start: {last_words(self.log, began)} (all of it in {self.log})")

    def _configure(self) -> Path:
        """Write its configuration: YAML, of which JSON is a part."""
        assert self._ports is not None
        signalling, udp = self._ports
        settings: dict[str, Any] = {
            "port": signalling,
            "bind_addresses": [HOST],
            "keys": self._keys,
            "rtc": {
                "tcp_port": 0,  # none: it would listen on every interface
                "udp_port": udp,
                "node_ip": HOST,
                "use_external_ip": False,
                "enable_loopback_candidate": True,
                "interfaces": {"includes": ["lo", "lo0"]},
                "stun_servers": [f"{HOST}:3478"],  # nobody need listen there; without one, public ones are looked up
            },
            "room": {"auto_create": self._auto_create},
            "logging": {"level": "warn", "json": True},
        }
        if self._webhooks:
            settings["webhook"] = {"api_key": self.key, "urls": self._webhooks}
        path = self._folder / "livekit.yaml"
        write_private(path, json.dumps(settings))
        return path

    def _kept_keys(self) -> dict[str, str]:
        path = self._folder / "keys.json"
        try:
            kept: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            kept = new_keys()
            write_private(path, json.dumps(kept))
        except ValueError:
            raise EmbeddedError(f"{path} cannot be read: remove it, and a new key is made.") from None
        return kept

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until it takes calls; False once the process has ended."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if _is_up(self.url.replace("ws://", "http://", 1)):
                return process.poll() is None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_TICK_S)
                return False
        raise EmbeddedError(f"livekit-server did not answer within {_START_S:.0f} s.")


def new_keys() -> dict[str, str]:
    """Return a new API key with its secret."""
    return {f"API{secrets.token_hex(_KEY_BYTES)}": secrets.token_urlsafe(_SECRET_BYTES)}


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0):  # noqa: S310 - an address of ours
            return True
    except urllib.error.HTTPError as error:
        # What it says while its statistics are old: it does answer.
        error.close()
        return True
    except OSError:
        return False


def _free_ports() -> tuple[int, int]:
    """Return a port that is free for TCP and one for UDP."""
    with contextlib.ExitStack() as held:
        found = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            probe = held.enter_context(socket.socket(socket.AF_INET, kind))
            probe.bind((HOST, 0))
            found.append(int(probe.getsockname()[1]))
    return found[0], found[1]
