"""The stores of a test run: real PostgreSQL and Valkey in a temporary folder, unless the environment names some.

A pytest plugin (``-p tests.stores``), since Django's settings are read before any ``conftest.py`` could start them. The first process
of a run starts and stops them; the workers of pytest-xdist inherit its environment, and with it the addresses.
"""

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from voiceplatform.embedded import EmbeddedError, Postgres, Valkey

_folder: Path | None = None
_running: list[Postgres | Valkey] = []


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Provide what the settings need; a wrapper, so that it comes before pytest-django reads them."""
    options = early_config.known_args_namespace
    if "PYTEST_XDIST_WORKER" not in os.environ and not options.help and not options.version:
        _provide(stores=not options.collectonly)
    return (yield)


def pytest_unconfigure() -> None:
    """Stop what was started here; nothing in a worker."""
    _remove()


def _provide(*, stores: bool) -> None:
    global _folder
    _folder = Path(tempfile.mkdtemp(prefix="voiceplatform-tests-"))
    _folder.chmod(0o711)  # as root, PostgreSQL's own user passes through; what is secret in it has a mode of its own
    atexit.register(_remove)
    os.environ["VOICE_DATA_DIR"] = str(_folder)
    os.environ.setdefault("SECRET_KEY", secrets.token_urlsafe(48))
    os.environ.setdefault("VOICE_SECRET_KEYS", Fernet.generate_key().decode())
    if not stores:
        return
    try:
        for name, store in (("DATABASE_URL", Postgres(_folder, durable=False)), ("VALKEY_URL", Valkey(_folder))):
            if not os.environ.get(name):
                store.start()
                _running.append(store)
                os.environ[name] = store.url
    except EmbeddedError as error:
        _remove()
        raise pytest.UsageError(str(error)) from None


def _remove() -> None:
    global _folder
    while _running:
        store = _running.pop()
        if isinstance(store, Postgres):
            store.destroy()
        else:
            store.stop()
    if _folder is not None:
        shutil.rmtree(_folder, ignore_errors=True)
        _folder = None
