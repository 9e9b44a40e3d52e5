"""How the ledger talks to PostgreSQL: what is sent is on its way at once, and answers are read when they are needed.

Owns: libpq's pipeline mode on one connection, by ``psycopg.pq``. Cursors would cost a small batch as much as its statements, and psycopg's
own pipeline waits at each Sync. There is one behind all that is sent together: while this process decides, the server takes it for idle in
a transaction, and ends it after that time-out should it never go on.
Refuses: knowing what it says. Not for two threads at once.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg import generators, pq
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult


class Wire:
    """Conversation over a connection in autocommit that nobody else uses meanwhile.

    Args:
        connection: Its statements are prepared where it has a ``prepare_threshold``.
        statements: All that will be said, by name.
    """

    def __init__(self, connection: psycopg.Connection[Any], statements: dict[str, str]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._statements = {name: (name.encode(), text.encode()) for name, text in statements.items()}
        self._prepared = connection.prepare_threshold is None
        self._commands: deque[Callable[[], None]] = deque()
        self._unread = 0
        self._read: list[PGresult] = []

    def say(self, name: str, *parameters: str | None) -> None:
        """Put a statement behind the others; ``send`` sends it."""
        key, text = self._statements[name]
        values = [each.encode() if each is not None else None for each in parameters]
        if self._connection.prepare_threshold is None:
            self._commands.append(partial(self._pgconn.send_query_params, text, values))
        else:
            self._commands.append(partial(self._pgconn.send_query_prepared, key, values))

    def send(self) -> None:
        """Send what was said, without waiting for an answer.

        Raises:
            psycopg.OperationalError: the connection is lost.
        """
        if not self._prepared:
            self._prepare()
        if self._pgconn.pipeline_status == pq.PipelineStatus.OFF:
            self._pgconn.enter_pipeline_mode()
        self._commands.append(self._pgconn.pipeline_sync)
        self._unread += len(self._commands)
        self._keep(*self._connection.wait(generators.pipeline_communicate(self._pgconn, self._commands)))
        self._connection.wait(generators.send(self._pgconn))

    def answers(self) -> list[PGresult]:
        """Send what was said, and return the answer to each statement since the last time.

        Raises:
            psycopg.Error: the first that went wrong. What was sent together with it, behind it, was not done.
        """
        self.send()
        self._read_all()
        answers, self._read = self._read, []
        for each in answers:
            if each.status == pq.ExecStatus.FATAL_ERROR:
                raise error_from_result(each)
        return answers

    def reset(self) -> None:
        """Roll back what is open and forget what was said; close the connection where that fails."""
        self._commands.clear()
        try:
            if not self._connection.closed and self._pgconn.pipeline_status != pq.PipelineStatus.OFF:
                self._read_all()
            self._read.clear()
            if not self._connection.closed and self._pgconn.transaction_status != pq.TransactionStatus.IDLE:
                self.say("ROLLBACK")
                self.answers()
        except psycopg.Error:
            self._connection.close()

    def _prepare(self) -> None:
        said, self._commands = self._commands, deque()
        for name, text in self._statements.values():
            self._commands.append(partial(self._pgconn.send_prepare, name, text))
        self._prepared = True
        try:
            self.answers()
        except psycopg.Error:
            self._connection.close()  # some may be prepared, and cannot be again
            raise
        self._commands = said

    def _read_all(self) -> None:
        while self._unread:
            self._keep(self._connection.wait(generators.fetch_many(self._pgconn)))
        self._pgconn.exit_pipeline_mode()

    def _keep(self, *answers: Sequence[PGresult]) -> None:
        self._unread -= len(answers)
        self._read += [each[-1] for each in answers if each[-1].status != pq.ExecStatus.PIPELINE_SYNC]
