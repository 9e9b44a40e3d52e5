"""The sessions that this process runs: from a session's id to its runner, for as long as it runs.

Owns: that one session has one runner here, the bound on how many there are, and ending them all when the process goes down.
Refuses: knowing what other processes run.
"""

import asyncio
import functools
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from sessions_app.domain.admission import Attempt
from sessions_app.domain.states import Reason
from sessions_app.runtime.attachment import Attachment, Rejected
from sessions_app.runtime.provider_side import Opens
from sessions_app.runtime.session_runner import Home, SessionRunner

MAX_SESSIONS: Final = 10_000  # many times what one process can carry; a bound on memory, not on capacity


class Sessions:
    """One process's runners; to be used from its event loop."""

    def __init__(self, *, home: Home, find: Opens) -> None:
        self.home = home
        self._find = find
        self._runners: dict[UUID, SessionRunner] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._runners)

    def get(self, session_id: UUID) -> SessionRunner | None:
        """Return the runner of a session that this process runs."""
        return self._runners.get(session_id)

    def connect(self, attempt: Attempt, metadata: Mapping[str, object], attachment: Attachment) -> SessionRunner | None:
        """Attach a client to its session, which is started where this process does not run it yet.

        Returns:
            The runner; None where the client was refused, which it is told by ``attachment``.
        """
        runner = self._runners.get(attempt.session_id)
        if runner is not None and not runner.over:
            runner.attach(attachment)
            return runner
        refused = self._refusal(runner)
        if refused is not None:
            attachment.tell(Rejected(refused))
            return None
        runner = SessionRunner(home=self.home, find=self._find, attempt=attempt, metadata=metadata)
        runner.attach(attachment)
        self._runners[attempt.session_id] = runner
        task = asyncio.get_running_loop().create_task(runner.run(), name=f"session {attempt.session_id}")
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._forget, attempt.session_id))
        return runner

    def move_to(self, node_id: UUID) -> None:
        """Carry on under another id: the node was taken for lost, and is a new one."""
        for runner in list(self._runners.values()):
            runner.move_to(node_id)

    async def stop_all(self, reason: Reason, *, timeout_s: float) -> int:
        """End every session for this reason, wait until each has ended, and return how many had not in that time."""
        for runner in list(self._runners.values()):
            runner.finish(reason)
        tasks = set(self._tasks)
        if not tasks:
            return 0
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        return len(late)

    def _refusal(self, runner: SessionRunner | None) -> Reason | None:
        if runner is not None:
            # It is over and only the store does not know yet. Was it never admitted for want of the store, its credential is still good.
            return Reason.UNAVAILABLE if runner.reason is Reason.UNAVAILABLE else Reason.AUTHENTICATION_FAILED
        if self.home.draining:
            return Reason.NODE_DRAINING
        return Reason.OVERLOADED if len(self._runners) >= MAX_SESSIONS else None

    def _forget(self, session_id: UUID, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._runners.pop(session_id, None)
