"""PostgreSQL and Valkey from wheels, started and stopped for development and tests; no Django, no settings.

Owns: both stores of one data folder. Each may be used alone: ``Postgres(folder)``, ``Valkey(folder)``. They are direct children, end
when this process does, however it does, and survive its ``kill -9`` with all that was acknowledged. Start them from the main thread.
Refuses: a second start on a folder in use. Not for production: there, ``DATABASE_URL`` and ``VALKEY_URL`` name servers.
"""

from pathlib import Path

from voiceplatform.embedded.errors import EmbeddedError, StoreInUseError
from voiceplatform.embedded.postgres import Postgres
from voiceplatform.embedded.valkey import Valkey

__all__ = ["EmbeddedError", "Postgres", "StoreInUseError", "Stores", "Valkey"]


class Stores:
    """Both stores of a data folder.

    Args:
        folder: the data folder; an existing one.
        durable: False for data that need not survive the machine (tests).
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.postgres = Postgres(folder, durable=durable)
        self.valkey = Valkey(folder)

    @property
    def database_url(self) -> str:
        """``DATABASE_URL`` of the running PostgreSQL."""
        return self.postgres.url

    @property
    def valkey_url(self) -> str:
        """``VALKEY_URL`` of the running Valkey."""
        return self.valkey.url

    def start(self) -> None:
        """Start both, or neither.

        Raises:
            EmbeddedError: one of them cannot run; the message is one sentence.
        """
        try:
            self.postgres.start()
            self.valkey.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both, everything on disk."""
        try:
            self.valkey.stop()
        finally:
            self.postgres.stop()

    def check(self) -> str | None:
        """Return the name of a store that has died, None while both live."""
        if self.postgres.pid is None:
            return "PostgreSQL"
        return "Valkey" if self.valkey.pid is None else None
