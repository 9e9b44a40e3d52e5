"""Small files of an embedded store: private folders, a kept password, a log that does not grow for ever."""

import os
import re
import secrets
from pathlib import Path
from typing import IO, Final

_LOG_LIMIT: Final = 10 * 1024 * 1024  # bytes; a longer log begins anew at the next start
_TAIL: Final = 4096  # bytes of a log that are read for its last words


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, with its parents."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def kept_password(path: Path) -> str:
    """Return the password in this file; make one, 0600, where there is none."""
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        password = secrets.token_hex(24)
        write_private(path, password)
        return password


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def append(path: Path) -> IO[bytes]:
    """Open a log for its next lines."""
    long = path.exists() and path.stat().st_size > _LOG_LIMIT
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if long else 0), 0o600)
    return os.fdopen(handle, "ab")


def last_words(path: Path, since: int) -> str:
    """Return the last complaint in a log after its first ``since`` bytes, else its last line, without what is not for people."""
    try:
        with path.open("rb") as file:
            file.seek(max(since, path.stat().st_size - _TAIL))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    complaints = [line for line in lines if re.search(r"FATAL|PANIC|initdb: error|could not|[Ff]ailed|\*\*\*", line)]
    line = (complaints or lines or ["it said nothing."])[-1]
    return re.sub(r"^.*?(FATAL|PANIC|error|# \w+):\s+", "", line)
