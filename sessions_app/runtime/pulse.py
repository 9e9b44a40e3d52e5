"""A process without a node's heartbeat tells that it is at work: a thread writes it down, at most once in ``PERIOD_S``.

Owns: the thread, which starts with the first sign of work, so that importing this costs nothing. It writes only after a sign has come
since the last time: a process whose loop hangs falls silent, while a database that is away never holds up the loop.
"""

import logging
import os
import socket
import threading
from typing import Any, Final

import psycopg

from sessions_app.services import seen

logger = logging.getLogger(__name__)

PERIOD_S: Final = 10.0


class Pulse:
    """The sign of life with this name; ``felt`` may be called from any thread, as often as one likes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._felt = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def felt(self, **_: Any) -> None:
        """Take note of work being done; a receiver for Celery's signals, whose arguments say no more."""
        self._felt.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"pulse of {self.name}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread, if there is one, and wait for it."""
        self._stopping.set()
        self._felt.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        away = False
        while True:
            self._felt.wait()
            if self._stopping.is_set():
                return
            self._felt.clear()
            try:
                seen.seen(name=self.name, holder=f"{socket.gethostname()}:{os.getpid()}")
                away = False
            except psycopg.Error as error:
                if not away:
                    logger.warning("%s: its sign of life could not be written: %s", self.name, type(error).__name__)
                away = True
            self._stopping.wait(PERIOD_S)
