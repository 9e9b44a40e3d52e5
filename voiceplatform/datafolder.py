"""What ``make run`` keeps in its data folder, as the settings read it: secrets made once, addresses of what runs on this machine.

Owns: the files ``secrets.json``, ``stores.json`` and ``livekit.json`` (mode 0600) and their form.
Refuses: starting without secrets. It starts and stops nothing: that is ``embedded``.
"""

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from voiceplatform.env import ConfigurationError

SECRETS_FILE = "secrets.json"
STORES_FILE = "stores.json"
LIVEKIT_FILE = "livekit.json"
# Where nothing runs and nothing is configured: connecting fails at once with PostgreSQL's own sentence.
NOWHERE_DATABASE = "postgresql://voice@127.0.0.1:1/voice"
NOWHERE_VALKEY = "redis://127.0.0.1:1/0"


@dataclass(frozen=True)
class DataFolder:
    """Secrets (empty where none were made), store addresses (``NOWHERE_*`` where none run), and the LiveKit that runs (empty: none)."""

    secret_key: str = ""
    secret_keys: tuple[str, ...] = ()
    database_url: str = NOWHERE_DATABASE
    valkey_url: str = NOWHERE_VALKEY
    livekit_url: str = ""
    livekit_api_key: str = ""
    livekit_api_secret: str = ""


def read(folder: Path) -> DataFolder:
    """Return what the folder holds; a folder that is not there is an empty one.

    Raises:
        ConfigurationError: a file is there but cannot be read.
    """
    kept, stores, livekit = (_load(folder / name) for name in (SECRETS_FILE, STORES_FILE, LIVEKIT_FILE))
    return DataFolder(
        secret_key=str(kept.get("secret_key", "")),
        secret_keys=tuple(str(kept.get("secret_keys", "")).split()),
        database_url=str(stores.get("database_url") or NOWHERE_DATABASE),
        valkey_url=str(stores.get("valkey_url") or NOWHERE_VALKEY),
        livekit_url=str(livekit.get("url", "")),
        livekit_api_key=str(livekit.get("api_key", "")),
        livekit_api_secret=str(livekit.get("api_secret", "")),
    )


def ensure_secrets(folder: Path) -> None:
    """Make ``secrets.json`` unless it is there: Django's key, and one Fernet key (32 random bytes, URL-safe base64)."""
    from cryptography.fernet import Fernet

    if not (folder / SECRETS_FILE).exists():
        write(folder / SECRETS_FILE, {"secret_key": secrets.token_urlsafe(48), "secret_keys": Fernet.generate_key().decode()})


def write_stores(folder: Path, *, database_url: str, valkey_url: str) -> None:
    """Say where the stores are, for every other process with the same data folder."""
    write(folder / STORES_FILE, {"database_url": database_url, "valkey_url": valkey_url})


def forget_stores(folder: Path) -> None:
    """Take the addresses away when the stores have stopped."""
    (folder / STORES_FILE).unlink(missing_ok=True)


def write_livekit(folder: Path, *, url: str, api_key: str, api_secret: str) -> None:
    """Say where the LiveKit of this machine is, for every other process with the same data folder."""
    write(folder / LIVEKIT_FILE, {"url": url, "api_key": api_key, "api_secret": api_secret})


def forget_livekit(folder: Path) -> None:
    """Take that away when it has stopped."""
    (folder / LIVEKIT_FILE).unlink(missing_ok=True)


def require_secrets(secret_key: str, secret_keys: list[str]) -> None:
    """Refuse to start without secrets.

    Raises:
        ConfigurationError: one of the two is missing; the sentence says how to get it.
    """
    if not secret_key:
        raise ConfigurationError("SECRET_KEY is not set. Set it in the environment, or start with `make run`, which makes one.")
    if not secret_keys:
        raise ConfigurationError(
            "VOICE_SECRET_KEYS is not set. It encrypts the secrets of backends: set it to a Fernet key"
            " (32 random bytes in URL-safe base64), or start with `make run`, which makes one."
        )


def write(path: Path, content: dict[str, str]) -> None:
    """Write a JSON file that only its owner may read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        raise


def _load(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}
