"""An embedded server as a service of the supervisor."""

from dataclasses import dataclass

from voiceplatform.embedded import Postgres, Valkey
from voiceplatform.embedded.livekit import LiveKit


@dataclass
class Store:
    """A server that the platform embeds; what it is called in what people read is ``name``."""

    name: str
    store: Postgres | Valkey | LiveKit
    tells_when_up: bool = False

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.store.pid is not None

    def start(self) -> None:
        """Start it at the address that it had."""
        self.store.start()

    def ask_to_stop(self) -> None:
        """Do nothing: what it holds is in use until it is stopped."""

    def stop(self) -> None:
        """Stop it, everything on disk."""
        self.store.stop()

    def last_words(self) -> str:
        """Say where to look."""
        return "see its log in the data folder"
