"""The whole platform on one machine, as ``manage.py up`` runs it: stores, migrations, demo content, web, worker, beat, and LiveKit.

Owns: what is started, in which order and with which settings, the lock on the data folder, and what people read meanwhile.
Runs before Django: the settings need secrets and addresses that this makes, so all of Django's work is done in child processes.
Exit codes: 0 after a signal, 1 when a part cannot be kept running, 2 when the start is refused; always with one sentence, and no traceback.
Limits: one instance a data folder; for development and demonstration, on Linux and macOS.
"""

import http.client
import os
import re
import socket
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import psycopg
import redis

from voiceplatform import datafolder, env, listening, logs, processes, web
from voiceplatform.embedded import EmbeddedError, Postgres, StoreInUseError, Valkey
from voiceplatform.embedded.files import write_private
from voiceplatform.local_livekit import LocalLiveKit
from voiceplatform.program import Program
from voiceplatform.store import Store
from voiceplatform.supervisor import CannotStartError, Interrupted, Supervisor, prefixed

BASE_DIR: Final = Path(__file__).resolve().parent.parent
USAGE: Final = """usage: manage.py up [--livekit]

Start the whole platform on this machine, and stop it with Ctrl-C: PostgreSQL and Valkey (unless DATABASE_URL and
VALKEY_URL name some), migrations, a demo tenant, the web server, a Celery worker and its scheduler.
Live calls are handed over or ended within ten seconds; a second Ctrl-C does not wait for that.

options:
  --livekit       start a livekit-server too, for browsers on this machine, and an agent that answers with the caller's voice

environment:
  PORT            of the web server (default 8000)
  SERVER          what it is: uvicorn (the default) or daphne
  WEB             how many processes of it share the port, 1 to 16 (default 1)
  VOICE_BIND      address that it listens on (default 127.0.0.1)
  VOICE_DATA_DIR  folder for data, secrets and logs (default .data)
  DATABASE_URL    a PostgreSQL to use instead of the embedded one
  VALKEY_URL      a Valkey to use instead of the embedded one
  PG_BIN          folder with the programs of another PostgreSQL, 15 or newer, to embed
  LIVEKIT_URL     a LiveKit server to use, with LIVEKIT_API_KEY and LIVEKIT_API_SECRET; the agent answers there
  LIVEKIT_SERVER_BIN  the program that --livekit starts (default: livekit-server on PATH)
"""
LIVEKIT_OPTION: Final = "--livekit"
_READY_TIMEOUT_S: Final = 1.0
_IMPATIENCE_S: Final = 20.0  # when to say why it is not ready yet
_MOST_WEB: Final = 16
_WEB_PATIENCE_S: Final = 12.0  # it ends by itself within ten


class RefusedError(Exception):
    """The start is refused; the message is one sentence."""


@dataclass(frozen=True)
class Place:
    """Where this instance listens and keeps its data, and what serves there."""

    host: str
    port: int
    folder: Path
    server: str
    processes: int

    @property
    def web_names(self) -> list[str]:
        """What the web processes are called."""
        return ["web"] if self.processes == 1 else [f"web{number}" for number in range(1, self.processes + 1)]

    @property
    def origin(self) -> str:
        """The address for people on this machine."""
        return f"http://{self.reachable if ':' not in self.reachable else f'[{self.reachable}]'}:{self.port}"

    @property
    def reachable(self) -> str:
        """An address of this machine that is listened on."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound


def main(arguments: list[str]) -> int:
    """Run ``manage.py up`` and return its exit code."""
    if arguments not in ([], [LIVEKIT_OPTION]):
        helps = set(arguments) <= {"-h", "--help"}
        (sys.stdout if helps else sys.stderr).write(USAGE)
        return 0 if helps else 2
    supervisor = Supervisor(_say)
    lock: processes.FolderLock | None = None
    try:
        with supervisor.signals():
            place = _place()
            livekit = LocalLiveKit(place.folder, own=LIVEKIT_OPTION in arguments, origin=place.origin)
            lock = _lock(place.folder)
            # Now, since the web server is started last, and kept open: nobody else takes the port meanwhile.
            with listening.listen(place.host, place.port) as listener:
                return _run(supervisor, place, listener, livekit)
    except (env.ConfigurationError, EmbeddedError, RefusedError, listening.CannotListenError) as error:
        sys.stderr.write(f"voiceplatform: {error}\n")
        return 2
    except CannotStartError as error:
        sys.stderr.write(f"voiceplatform: {error}\n")
        return 1
    finally:
        if lock is not None:
            lock.release()


def _say(name: str, line: str) -> None:
    """Print a line; our own begin with the time, as those of the others do."""
    clock = f"{datetime.now().astimezone():%H:%M:%S}  " if name == "up" else ""
    try:
        sys.stdout.write(f"{prefixed(name, clock + line)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer would be complained about at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _run(supervisor: Supervisor, place: Place, listener: socket.socket, livekit: LocalLiveKit) -> int:
    """Start everything, keep it running, stop it."""
    additions = {
        "VOICE_DATA_DIR": str(place.folder),
        "PORT": str(place.port),
        "VOICE_LOG_FORMAT": env.text("VOICE_LOG_FORMAT", "plain"),
        "PYTHONUNBUFFERED": "1",
    }
    try:
        _start_stores(supervisor, place.folder)
        livekit.start_server(supervisor)
        additions |= livekit.additions
        _set_up(supervisor, place.folder, additions)
        _start_services(supervisor, place, listener, livekit, additions)
        supervisor.run(_Announcer(supervisor, place, livekit).tick)
    except Interrupted:
        pass
    finally:
        # From here on the port is open for as long as a web process has it, and nobody waits there in vain.
        listener.close()
        if supervisor.running:
            supervisor.say("up", "stopping; a second Ctrl-C does not wait" if supervisor.stops else "stopping")
            supervisor.stop()
            supervisor.say("up", "stopped")
        livekit.close()
        datafolder.forget_stores(place.folder)
    return 0


def _place() -> Place:
    return Place(
        host=env.text("VOICE_BIND", "127.0.0.1"),
        port=env.integer("PORT", 8000, minimum=1, maximum=65_535),
        folder=env.folder("VOICE_DATA_DIR", BASE_DIR / ".data"),
        server=web.chosen_server(),
        processes=env.integer("WEB", 1, minimum=1, maximum=_MOST_WEB),
    )


def _lock(folder: Path) -> processes.FolderLock:
    """Make the data folder and its secrets, and take it for this process."""
    lock = processes.FolderLock(folder / "up.lock")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.take()
        datafolder.ensure_secrets(folder)
    except processes.FolderInUseError:
        raise RefusedError(f"Another instance runs on {folder}: stop it, or set VOICE_DATA_DIR to another folder.") from None
    except OSError as error:
        lock.release()
        raise RefusedError(f"The data folder {folder} cannot be written: {error.strerror}. Set VOICE_DATA_DIR to another.") from None
    return lock


def _start_stores(supervisor: Supervisor, folder: Path) -> None:
    """Start what the environment does not name, and tell every process with this data folder where it is."""
    database_url, valkey_url = env.text("DATABASE_URL"), env.text("VALKEY_URL")
    _refuse_unreachable(database_url, valkey_url)
    if database_url and valkey_url:
        datafolder.forget_stores(folder)
        return
    supervisor.say("up", f"data is in {folder}")
    try:
        if not database_url:
            postgres = Postgres(folder)
            supervisor.add(Store("PostgreSQL", postgres))
            database_url = postgres.url
        if not valkey_url:
            valkey = Valkey(folder)
            supervisor.add(Store("Valkey", valkey))
            valkey_url = valkey.url
    except StoreInUseError as error:
        raise RefusedError(f"{error} Stop what runs there, or set VOICE_DATA_DIR to another folder.") from None
    datafolder.write_stores(folder, database_url=database_url, valkey_url=valkey_url)


def _refuse_unreachable(database_url: str, valkey_url: str) -> None:
    """Try the stores that the environment names; a database that is not there would show as a time-out much later."""
    try:
        if database_url:
            psycopg.connect(database_url, connect_timeout=5).close()
        if valkey_url:
            with redis.Redis.from_url(valkey_url, socket_connect_timeout=5) as client:
                client.ping()
    except (psycopg.Error, redis.RedisError, ValueError) as error:
        name = "DATABASE_URL" if isinstance(error, psycopg.Error) else "VALKEY_URL"
        reason = logs.redact(str(error).strip().split("\n", maxsplit=1)[0])
        raise RefusedError(f"{name} cannot be used: {reason}") from None


def _set_up(supervisor: Supervisor, folder: Path, additions: dict[str, str]) -> None:
    """Migrate, and make the demo content where there is none.

    Raises:
        RefusedError: a step failed; all that it said is in a log.
    """
    for arguments in (["migrate", "--noinput", "--verbosity", "0"], ["bootstrap"]):
        supervisor.raise_if_stopping()
        _step(supervisor, folder, additions, arguments)


def _step(supervisor: Supervisor, folder: Path, additions: dict[str, str], arguments: list[str]) -> None:
    lines: list[str] = []
    command = [sys.executable, "manage.py", *arguments]

    def hear(_name: str, line: str) -> None:
        lines.append(line)

    step = Program("setup", command, supervisor, folder=BASE_DIR, additions=additions, patience_s=0, say=hear)
    if step.run():
        log = folder / "setup.log"
        write_private(log, "\n".join(lines))
        raise RefusedError(f"`manage.py {arguments[0]}` failed: {_complaint(lines)} (all of it in {log})")
    for line in lines:
        supervisor.say("setup", line)


def _complaint(lines: list[str]) -> str:
    """Return the line that says what went wrong: the exception at the end of a traceback, else the last one."""
    errors = [line for line in lines if re.match(r"[\w.]+: ", line)]
    return logs.redact((errors or lines or ["it said nothing."])[-1])


def _start_services(
    supervisor: Supervisor, place: Place, listener: socket.socket, livekit: LocalLiveKit, additions: dict[str, str]
) -> None:
    """Start worker and beat, the echo agent, and the web processes, which are stopped before them."""
    celery = [sys.executable, "-W", "ignore:You're running the worker with superuser", "-m", "celery", "-q", "-A", "voiceplatform"]
    # All tasks come round within seconds: nothing is worth keeping in a schedule file.
    beat = [*celery, "beat", "--scheduler", "celery.beat:Scheduler", "--pidfile="]
    worker = [*celery, "worker", "--concurrency", "1", "--without-gossip", "--without-mingle"]
    worker += ["--loglevel", env.text("LOG_LEVEL", "INFO").upper(), "--hostname", f"{place.port}@%h"]
    supervisor.add(
        *(
            Program(name, command, supervisor, folder=BASE_DIR, additions=additions, patience_s=patience_s)
            for name, command, patience_s in (("worker", worker, 10.0), ("beat", beat, 5.0))
        )
    )
    livekit.start_agent(supervisor, folder=BASE_DIR, additions=additions)
    serve = [sys.executable, "-m", "voiceplatform.web", "--server", place.server, "--fd", str(listener.fileno())]
    supervisor.add(
        *(
            Program(
                name,
                serve,
                supervisor,
                folder=BASE_DIR,
                additions=additions,
                patience_s=_WEB_PATIENCE_S,
                inherits=[listener.fileno()],
                ready_option="--ready-fd",
            )
            for name in place.web_names
        )
    )


class _Announcer:
    """Prints the addresses once the platform is ready, and why it is not where that takes long."""

    def __init__(self, supervisor: Supervisor, place: Place, livekit: LocalLiveKit) -> None:
        self._supervisor = supervisor
        self._place = place
        self._livekit = livekit
        self._done = False
        self._impatient_at = time.monotonic() + _IMPATIENCE_S

    def tick(self) -> None:
        """Look once."""
        if self._done:
            return
        reason = self._reason()
        if not reason:
            self._done = True
            self._announce()
        elif time.monotonic() >= self._impatient_at:
            self._impatient_at = time.monotonic() + _IMPATIENCE_S
            self._supervisor.say("up", f"not ready yet: {reason}")

    def _reason(self) -> str:
        """Return why it is not ready, empty where it is. Nobody is asked before all would answer: the port has been open all along."""
        missing = self._supervisor.missing(*self._place.web_names)
        if missing:
            return f"{' and '.join(missing)} {'does' if len(missing) == 1 else 'do'} not serve yet"
        connection = http.client.HTTPConnection(self._place.reachable, self._place.port, timeout=_READY_TIMEOUT_S)
        hosts = [name.lstrip(".") for name in env.words("ALLOWED_HOSTS") if name != "*"]
        headers = {"X-Forwarded-Proto": "https"} | ({"Host": hosts[0]} if hosts else {})
        try:
            connection.request("GET", "/readyz", headers=headers)
            answer = connection.getresponse()
            body = " ".join(answer.read(500).decode(errors="replace").split())
        except (OSError, http.client.HTTPException) as error:
            return f"/readyz: {error}"
        finally:
            connection.close()
        return "" if answer.status == http.client.OK else f"/readyz answers {answer.status} {body}"

    def _announce(self) -> None:
        origin = self._place.origin
        for line in (
            "ready",
            f"  talk     {origin}/talk/",
            f"  admin    {origin}/admin/",
            f"  history  {origin}/ops/sessions/",
            *([f"  livekit  {self._livekit.url}, which tells {self._livekit.webhooks}"] if self._livekit.url else []),
            "  sign in as admin, with the password printed when it was made (`manage.py changepassword admin` sets another)",
            "  Ctrl-C stops everything",
        ):
            self._supervisor.say("up", line)
