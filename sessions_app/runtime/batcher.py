"""The batcher: one thread and one connection a process, between everybody who asks and the ledger.

What arrives while a transaction is in flight makes up the next batch, so a lone caller waits for nobody and a stampede becomes a few
transactions. Bounded: at most ``MAX_WAITING`` askers (``Overloaded`` beyond), ``MAX_TRIES`` for a batch, ``GIVE_UP_S`` for an answer.

When the database is away, admissions are answered ``Unavailable`` at once; what must be written (an end, a suspension) is kept, at most
``MAX_KEPT``, and written when it is back. A batch that fails by its data is applied one by one, so that nobody pays for another's request.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, overload

import psycopg
from opentelemetry.trace import SpanContext
from psycopg import Connection

from sessions_app.domain.operations import Admit, Admitted, End, Move, Operation, Promote, Promoted, Result, Resume, Resumed, Step, Suspend
from sessions_app.runtime import telemetry
from sessions_app.services.connections import NoAnswer, open_connection
from sessions_app.services.exceptions import Overloaded, Unavailable
from sessions_app.services.ledger import MAX_BATCH, RETRYABLE, Ledger

MAX_WAITING: Final = 10_000
MAX_KEPT: Final = 50_000
MAX_TRIES: Final = 4
GIVE_UP_S: Final = 5.0
RECONNECT_S: Final = 0.5  # how often a lost database is tried

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Asked:
    operation: Operation
    answer: "Future[Result] | asyncio.Future[Result]"
    at: float = field(default_factory=time.monotonic)
    # Made in the asker's thread and context: the span that the batch is linked to.
    asked_by: SpanContext | None = field(default_factory=telemetry.asking_span)

    @property
    def must_be_written(self) -> bool:
        return isinstance(self.operation, End | Suspend)


class Batcher:
    """Feeds the ledger. ``start`` and ``stop`` from any thread; ``submit`` from any event loop, ``ask`` from any thread."""

    def __init__(self) -> None:
        self.on_promoted: Callable[[Sequence[Promoted]], None] | None = None
        self._waiting: deque[_Asked] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._connection: Connection[Any] | None = None
        self._ledger: Ledger | None = None
        self._away_since: float | None = None

    @property
    def connected(self) -> bool:
        """Whether the ledger's connection is up."""
        return self._ledger is not None

    def start(self) -> None:
        """Start the thread; it connects by itself, and again whenever the connection is lost."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """Write what is waiting, for ``timeout_s`` seconds at most, then stop; who still waits gets ``Unavailable``."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
        _refuse(self._take(MAX_KEPT), Unavailable)

    def ask(self, operation: Operation) -> "Future[Result]":
        """Put an operation into the next batch.

        The future's exceptions are those of ``submit``.
        """
        answer: Future[Result] = Future()
        self._put(_Asked(operation, answer))
        return answer

    def _put(self, asked: _Asked) -> None:
        error: type[Unavailable | Overloaded] | None = None
        with self._wake:
            if self._stopping or (self._away_since is not None and not asked.must_be_written):
                error = Unavailable
            elif len(self._waiting) >= (MAX_KEPT if asked.must_be_written else MAX_WAITING):
                error = Overloaded
            else:
                self._waiting.append(asked)
                self._wake.notify()
        if error is not None:
            _refuse([asked], error)

    @overload
    async def submit(self, operation: Admit | Move) -> Admitted: ...
    @overload
    async def submit(self, operation: Resume) -> Resumed: ...
    @overload
    async def submit(self, operation: Step | Promote) -> bool: ...
    async def submit(self, operation: Operation) -> Result:
        """Put an operation into the next batch and wait for its answer.

        Raises:
            Unavailable: the database is away. An ``End`` or ``Suspend`` waits for it instead.
            Overloaded: too many are waiting.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._put(_Asked(operation, answer))
        return await answer

    # --- the thread ----------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            with self._wake:
                # Without a connection it wakes by itself, to try again.
                self._wake.wait_for(lambda: self._waiting or self._stopping, None if self._ledger else RECONNECT_S)
                if self._stopping and (not self._waiting or self._away_since is not None):
                    break
            try:
                if self._connect():
                    self._apply(self._take(MAX_BATCH))
            except Exception:
                # This thread is the only way to a slot: whatever went wrong with one batch, the next one is served.
                logger.exception("a batch failed")
        self._disconnect()

    def _take(self, most: int) -> list[_Asked]:
        with self._wake:
            return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _connect(self) -> bool:
        if self._ledger is None and not self._open():
            self._lost()
            self._wait_before_reconnecting()
        return self._ledger is not None

    def _open(self) -> bool:
        try:
            self._connection = open_connection(name="voiceplatform ledger", impatient=True, prepare=True)
        except psycopg.Error as error:
            if self._away_since is None:
                logger.error("the database is away: %s", type(error).__name__)  # noqa: TRY400 - told once, no traceback
            return False
        self._ledger = Ledger(self._connection)
        if self._away_since is not None:
            logger.info("the database is back after %.1f s", time.monotonic() - self._away_since)
        self._away_since = None
        return True

    def _wait_before_reconnecting(self) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._stopping, RECONNECT_S)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._ledger = None

    def _lost(self) -> None:
        """Refuse at once whoever can be refused; what must be written waits."""
        self._disconnect()
        with self._wake:
            self._away_since = self._away_since or time.monotonic()
            kept = deque(asked for asked in self._waiting if asked.must_be_written)
            refused = [asked for asked in self._waiting if not asked.must_be_written]
            self._waiting = kept
        _refuse(refused, Unavailable)

    def _apply(self, batch: list[_Asked]) -> None:
        """Apply a batch; the same again after a lost connection or a time-out, since it may or may not have been committed."""
        for attempt in range(1, MAX_TRIES + 1):
            if not batch:
                return
            try:
                if self._ledger is None and not self._open():
                    break
                assert self._ledger is not None
                with _span(batch, attempt):
                    results = self._ledger.apply([each.operation for each in batch])
            except RETRYABLE as error:
                logger.warning("a batch is tried again: %s, attempt %d", type(error).__name__, attempt)
            except psycopg.OperationalError as error:
                logger.warning("the ledger's connection was lost: %s", type(error).__name__)
                self._disconnect()
                if isinstance(error, NoAnswer):
                    break  # another try would hang as long, with everybody waiting behind it
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait are answered
                if self._connection is None or self._connection.closed:
                    self._disconnect()
                else:
                    self._apply_one_by_one(batch, error)
                    return
            else:
                if self._ledger.promoted and self.on_promoted is not None:
                    self.on_promoted(self._ledger.promoted)
                _answer(batch, results)
                return
            batch = self._still_worth_it(batch)
        self._put_back_or_refuse(batch)

    def _apply_one_by_one(self, batch: list[_Asked], error: Exception) -> None:
        """Find whose data it was; only that one is refused."""
        if len(batch) == 1:
            logger.error("an operation failed: %s", type(batch[0].operation).__name__, exc_info=error)
            _refuse(batch, Unavailable)
            return
        logger.warning("a batch of %d is applied one by one: %s", len(batch), type(error).__name__)
        for each in batch:
            self._apply([each])

    def _still_worth_it(self, batch: list[_Asked]) -> list[_Asked]:
        late = time.monotonic() - GIVE_UP_S
        _refuse([each for each in batch if each.at < late and not each.must_be_written], _in_doubt)
        return [each for each in batch if each.at >= late or each.must_be_written]

    def _put_back_or_refuse(self, batch: list[_Asked]) -> None:
        with self._wake:
            self._waiting.extendleft(each for each in reversed(batch) if each.must_be_written)
        _refuse([each for each in batch if not each.must_be_written], _in_doubt)
        if self._ledger is None:
            self._lost()
        self._wait_before_reconnecting()


def _in_doubt() -> Unavailable:
    return Unavailable(in_doubt=True)


def _refuse(asked: Sequence[_Asked], error: Callable[[], Exception]) -> None:
    _answer(asked, [error() for _ in asked])  # each raises its own


def _answer(asked: Sequence[_Asked], answers: Sequence[Result | Exception]) -> None:
    """Answer everybody. An event loop is woken once for all of its own, since each call from another thread costs it a system call."""
    of_loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Result], Result | Exception]]] = {}
    for each, answer in zip(asked, answers, strict=True):
        if isinstance(each.answer, asyncio.Future):
            of_loops.setdefault(each.answer.get_loop(), []).append((each.answer, answer))
        elif each.answer.set_running_or_notify_cancel():
            _settle(each.answer, answer)
    for loop, theirs in of_loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_settle_all, theirs)


def _settle_all(answers: "Sequence[tuple[asyncio.Future[Result], Result | Exception]]") -> None:
    for future, answer in answers:
        if not future.done():  # who asked may have gone
            _settle(future, answer)


def _settle(future: "Future[Result] | asyncio.Future[Result]", answer: Result | Exception) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _span(batch: list[_Asked], attempt: int) -> AbstractContextManager[None]:
    """The span of one try; the admissions are linked first, should there be more askers than links."""
    admissions = [each.asked_by for each in batch if isinstance(each.operation, Admit)]
    others = [each.asked_by for each in batch if not isinstance(each.operation, Admit)]
    return telemetry.batch(operations=len(batch), admissions=len(admissions), attempt=attempt, asked_by=admissions + others)
