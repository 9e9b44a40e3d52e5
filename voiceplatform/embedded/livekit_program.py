"""Where livekit-server comes from: ``$LIVEKIT_SERVER_BIN``, PATH, or a cache of the user's, into which Go installs it once.

Owns: the version that is installed, the cache and its lock. Refuses: to install unless it is asked to, and to touch anything of Go's but
its module and build caches. As a program (``python -m``) it finds or installs it and prints the path; where it is not to be had it says why
in one line, and ends with 1.
Limits: the installation downloads a few hundred modules and takes minutes; two at once wait for each other.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from voiceplatform import env
from voiceplatform.embedded.errors import EmbeddedError

VERSION: Final = "v1.13.5"
MODULE: Final = "github.com/livekit/livekit-server/cmd/server"
NAME: Final = "livekit-server"
_GO: Final = ("/usr/local/go/bin/go", "/opt/homebrew/bin/go")  # where it is when it is not on PATH
_INSTALL_S: Final = 1200.0
WHERE: Final = "Install LiveKit's livekit-server and put it on PATH, name it with LIVEKIT_SERVER_BIN, or install Go 1.26."


def find() -> Path | None:
    """Return the program; None where there is none.

    Raises:
        EmbeddedError: ``$LIVEKIT_SERVER_BIN`` names something that cannot be run.
    """
    named = env.text("LIVEKIT_SERVER_BIN")
    if named:
        path = shutil.which(str(Path(named).expanduser()))
        if path is None:
            raise EmbeddedError(f"LIVEKIT_SERVER_BIN names {named}, which is no program.")
        return Path(path).absolute()
    on_path = shutil.which(NAME)
    if on_path is not None:
        return Path(on_path).absolute()
    cached = _cached()
    return cached if os.access(cached, os.X_OK) else None


def find_or_install() -> Path:
    """Return the program, installed by Go into the cache where it is nowhere else.

    Raises:
        EmbeddedError: it is not to be had; the message says what to do.
    """
    found = find()
    if found is not None:
        return found
    go = shutil.which("go") or next((path for path in _GO if os.access(path, os.X_OK)), None)
    if go is None:
        raise EmbeddedError(f"There is no livekit-server here. {WHERE}")
    cached = _cached()
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with _locked(cached.parent.parent / f"{NAME}.lock"):
            if not os.access(cached, os.X_OK):
                _install(go, cached)
    except OSError as error:
        raise EmbeddedError(f"livekit-server cannot be installed into {cached.parent}: {error.strerror}. {WHERE}") from None
    return cached


def _cached() -> Path:
    return env.folder("XDG_CACHE_HOME", Path.home() / ".cache") / "voiceplatform" / f"{NAME}-{VERSION}" / NAME


def _install(go: str, target: Path) -> None:
    sys.stderr.write(f"Installing livekit-server {VERSION} with Go, once; this takes some minutes\n")
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        # Go's own folders stay where they are; what the user has set for other work does not apply to this.
        settings = {**os.environ, "GOBIN": place, "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"}
        try:
            done = subprocess.run(  # noqa: S603 - no shell, no text of users
                [go, "install", f"{MODULE}@{VERSION}"],
                env=settings,
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_INSTALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"livekit-server was not installed within {_INSTALL_S:.0f} s. {WHERE}") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise EmbeddedError(f"Go could not install livekit-server: {said} {WHERE}")
        (Path(place) / "server").replace(target)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the lock; the kernel gives it back however the holder ends."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str]) -> int:
    """Print the path, or in one line why there is none, and what the arguments say besides."""
    try:
        sys.stdout.write(f"{find_or_install()}\n")
    except EmbeddedError as error:
        sys.stderr.write(f"{' '.join([str(error), *arguments])}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
