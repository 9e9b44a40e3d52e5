"""One PostgreSQL on a Unix socket, with a password (scram-sha-256), as a direct child; as root it runs as ``nobody``.

Owns: where the cluster lives, its making, start and stop. Refuses: TCP, a second start on the same cluster, data of another major
version, PostgreSQL as root. As root the cluster lives in ``/var/lib/voiceplatform-<hash of the data folder's path>``, because ``nobody``
may not be able to reach the data folder; ``postgres-place`` in the data folder links to it. Limits: Linux and macOS.
"""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from voiceplatform import processes
from voiceplatform.embedded import binaries
from voiceplatform.embedded.errors import EmbeddedError, StoreInUseError
from voiceplatform.embedded.files import append, kept_password, last_words, private_folder, write_private

NAME: Final = "voice"  # of the database and of the role that owns it
PLACE_LINK: Final = "postgres-place"  # in the data folder: where the cluster is when we are root
_ROOTS_PLACES: Final = Path("/var/lib")
_SOCKET_FOLDER_LIMIT: Final = 93  # bytes: the kernel allows 107 for the socket, whose own name takes 14
_START_S: Final = 60.0  # recovery after a crash included
_STOP_S: Final = 20.0
_ABORT_S: Final = 5.0
_LEFTOVER_S: Final = 10.0  # how long a server whose parent was killed may take to end
_TICK_S: Final = 0.02
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}  # no PG* of the caller; complaints in English
_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "synchronous_commit": "on",
    "log_checkpoints": "off",
    # Failing statements and their rows may hold what no log may.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
_THROWAWAY: Final = {"fsync": "off", "full_page_writes": "off"}


class Postgres:
    """An embedded PostgreSQL of the data folder ``folder``; start, stop and start again as often as needed.

    Args:
        folder: the data folder; an existing one.
        durable: False for a cluster that need not survive the machine (tests): no fsync, and as root inside ``folder`` where possible.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self._folder = folder
        self._durable = durable
        self._owner = _unprivileged()
        self._place = _place(folder, self._owner, durable=durable)
        self._lock = processes.FolderLock(folder / "postgres.lock")
        self._process: subprocess.Popen[bytes] | None = None
        self._password = ""
        self._socket_folder: Path | None = None

    @property
    def url(self) -> str:
        """Where it answers, password included; the same after a restart of this object."""
        return f"postgresql://{NAME}:{self._password}@{quote(str(self._socket_folder), safe='')}/{NAME}"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start it, made first where there is none, and wait until it takes connections; nothing happens where it runs already.

        Raises:
            StoreInUseError: another process runs it on this folder.
            EmbeddedError: it cannot run; the message says why.
        """
        if self.pid is not None:
            return
        try:
            self._lock.take()
            self._prepare()
            programs = binaries.find_postgres()
            self._start(programs.lend_to(self._place) if self._owner else programs)
        except processes.FolderInUseError:
            raise StoreInUseError(f"PostgreSQL already runs on {self._folder}.") from None
        except OSError as error:
            self._halt()
            raise EmbeddedError(f"PostgreSQL cannot be set up: {error.strerror} ({error.filename}).") from error
        except BaseException:
            self._halt()
            raise

    def stop(self) -> None:
        """Stop it within 25 s: sessions are cut, all is on disk; the next start needs no recovery unless it had to be aborted."""
        self._halt()
        if self._socket_folder is not None and self._socket_folder.parent != self._place:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None

    def destroy(self) -> None:
        """Stop it and remove all of its data.

        Raises:
            StoreInUseError: another process runs it on this folder.
        """
        self.stop()
        try:
            self._lock.take()
        except processes.FolderInUseError:
            raise StoreInUseError(f"PostgreSQL runs on {self._folder}.") from None
        try:
            _clear_leftovers(self._place / "cluster")  # sessions of a killed server would go on writing
            shutil.rmtree(self._place, ignore_errors=True)
            for name in (PLACE_LINK, "postgres.password", "postgres.log"):
                (self._folder / name).unlink(missing_ok=True)
        finally:
            self._lock.release()

    def _halt(self) -> None:
        if self._process is not None:
            processes.end(self._process, (signal.SIGINT, _STOP_S), (signal.SIGQUIT, _ABORT_S))
            self._process = None
        self._lock.release()

    def _prepare(self) -> None:
        """Make the folders, for the owner to be."""
        password, link = self._folder / "postgres.password", self._folder / PLACE_LINK
        if not password.exists() and (self._place / "cluster").exists():
            if self._place.parent == self._folder or link.is_symlink():
                raise EmbeddedError(f"The password of the data in {self._place} is missing: {password}.")
            # The data folder was removed and made anew: what it had here went with its password and its secrets.
            shutil.rmtree(self._place)
        self._password = kept_password(password)
        if self._owner is None:
            private_folder(self._place)
        else:
            self._place.mkdir(parents=True, exist_ok=True)
            self._place.chmod(0o711)
            link.unlink(missing_ok=True)
            link.symlink_to(self._place)
        if self._socket_folder is None:
            self._socket_folder = self._place / "socket"
            if len(os.fsencode(self._socket_folder)) > _SOCKET_FOLDER_LIMIT:
                self._socket_folder = Path(tempfile.mkdtemp(prefix="voice-"))
        self._socket_folder.mkdir(mode=0o711 if self._owner else 0o700, exist_ok=True)
        self._give(self._socket_folder)

    def _start(self, programs: binaries.PostgresPrograms) -> None:
        data = self._place / "cluster"
        if not data.exists():
            self._make(programs, data)
        made_by = int((data / "PG_VERSION").read_text(encoding="ascii").split(".")[0])
        if made_by != programs.major:
            raise EmbeddedError(f"The data in {self._folder} is PostgreSQL {made_by}'s, but {programs.folder} has {programs.major}.")
        _clear_leftovers(data)
        settings = _SETTINGS | {"unix_socket_directories": str(self._socket_folder), "fsync": "on"} | ({} if self._durable else _THROWAWAY)
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with append(self._log) as output:
            began = output.tell()
            self._process = self._spawn([programs.folder / "postgres", "-D", data, *arguments], output.fileno())
        self._await_connections(self._process, began)

    def _make(self, programs: binaries.PostgresPrograms, data: Path) -> None:
        """Run initdb beside the cluster's place and move it there when it is whole."""
        draft, password = self._place / "cluster.new", self._place / "password.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        write_private(password, self._password)
        self._give(draft)
        self._give(password)
        locale = ["--locale-provider=builtin"] if programs.major >= 17 else []
        command: list[str | Path] = [programs.folder / "initdb", "-D", draft, "-U", NAME, "--encoding=UTF8", *locale, "--locale=C.UTF-8"]
        command += ["-A", "scram-sha-256", f"--pwfile={password}", "--no-instructions", *([] if self._durable else ["--no-sync"])]
        try:
            with append(self._log) as output:
                began = output.tell()
                process = self._spawn(command, output.fileno())
                try:
                    code = process.wait(timeout=_START_S)
                except BaseException:
                    processes.end(process)
                    raise
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"PostgreSQL's initdb did not end within {_START_S:.0f} s (its words are in {self._log}).") from None
        finally:
            password.unlink(missing_ok=True)
        if code:
            raise EmbeddedError(f"PostgreSQL could not make its files: {last_words(self._log, began)} (all of it in {self._log})")
        draft.rename(data)

    def _await_connections(self, process: subprocess.Popen[bytes], began: int) -> None:
        until = time.monotonic() + _START_S
        maintenance = f"{self.url.rpartition('/')[0]}/postgres"
        while time.monotonic() < until:
            try:
                with psycopg.connect(maintenance, autocommit=True, connect_timeout=5) as connection:
                    found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone()
                    if found is None:
                        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(NAME)))
                    return
            except psycopg.OperationalError as error:
                refused = error
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_TICK_S)
                raise EmbeddedError(f"PostgreSQL did not start: {last_words(self._log, began)} (all of it in {self._log})")
        raise EmbeddedError(f"PostgreSQL took no connection within {_START_S:.0f} s: {refused}")

    def _spawn(self, command: list[str | Path], output: int) -> subprocess.Popen[bytes]:
        return processes.spawn(
            command, environment=_ENVIRONMENT, folder=self._place, output=output, death_signal=signal.SIGINT, owner=self._owner
        )

    def _give(self, path: Path) -> None:
        if self._owner is not None:
            os.chown(path, self._owner.user, self._owner.group)

    @property
    def _log(self) -> Path:
        return self._folder / "postgres.log"


def _unprivileged() -> processes.Owner | None:
    """Return ``nobody`` when we are root, which PostgreSQL refuses to run as."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError("PostgreSQL refuses to run as root, and this system has no user `nobody`: set DATABASE_URL.") from None
    return processes.Owner(nobody.pw_uid, nobody.pw_gid)


def _place(folder: Path, owner: processes.Owner | None, *, durable: bool) -> Path:
    """Return where the cluster of this data folder lives: always the same for one that must last."""
    if owner is None:
        return folder / "postgres"
    if not durable and all(parent.stat().st_mode & 0o001 for parent in (folder, *folder.parents)):
        return folder / "postgres"
    return _ROOTS_PLACES / f"voiceplatform-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]}"


def _clear_leftovers(data: Path) -> None:
    """Make sure that no server of an earlier run is on these files, and forget one that was killed.

    Our lock is held, so only a leftover can be there: a server that ends since its parent was killed, which is waited for; the
    sessions of a server that was itself killed, which would hold its shared memory until their query is done, and are killed too;
    or a dead one's number in ``postmaster.pid``, which PostgreSQL takes for a living one while the dead process is a zombie.
    """
    file = data / "postmaster.pid"
    try:
        server = psutil.Process(int(file.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0]))
        if _works_on(server, data):
            server.wait(timeout=_LEFTOVER_S)
    except FileNotFoundError:
        return
    except psutil.TimeoutExpired:
        raise StoreInUseError(f"PostgreSQL already runs on {data} (process {server.pid}).") from None
    except (ValueError, psutil.NoSuchProcess):
        pass  # cut short by a crash of the machine, or gone
    orphans = [process for process in psutil.process_iter() if _works_on(process, data)]
    for orphan in orphans:
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.kill()
    psutil.wait_procs(orphans, timeout=_LEFTOVER_S)
    file.unlink(missing_ok=True)


def _works_on(process: psutil.Process, data: Path) -> bool:
    """Whether it is a PostgreSQL process of this cluster: they all have its folder as their working directory. A zombie is none."""
    try:
        return "postgres" in process.name() and Path(process.cwd()) == data.resolve()
    except (psutil.Error, OSError):
        return False
