"""Ours: the product's batcher, as a web process has it, and nothing else of that process."""

import asyncio
import time
from typing import Final
from uuid import UUID, uuid4

import uuid_utils.compat

from benchmarks.harness.errors import BenchmarkError
from sessions_app.domain.operations import Admit, End
from sessions_app.domain.states import Reason
from sessions_app.domain.world import Attempt
from sessions_app.runtime.batcher import Batcher

CONNECTED_S: Final = 10.0


class Ours:
    """Admits with ``Admit`` and releases with ``End``, each of which is acknowledged when it is on disk."""

    def __init__(self) -> None:
        self.batcher = Batcher()
        self.node_id = uuid4()

    async def open(self) -> None:
        """Connect.

        Raises:
            BenchmarkError: the database does not answer.
        """
        self.batcher.start()
        until = time.monotonic() + CONNECTED_S
        while not self.batcher.connected:
            if time.monotonic() > until:
                raise BenchmarkError("the batcher did not connect.")
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Write what is waiting."""
        await asyncio.to_thread(self.batcher.stop)

    async def admit(self, tenant: int, user: str) -> UUID | None:
        """Ask for a session; None where it was refused."""
        session_id = uuid_utils.compat.uuid7()
        answer = await self.batcher.submit(Admit(Attempt(session_id, tenant, user), self.node_id))
        return session_id if answer.verdict.admitted else None

    async def release(self, slot: object) -> None:
        """End it.

        Raises:
            BenchmarkError: the ledger did not know it.
        """
        assert isinstance(slot, UUID)
        if not await self.batcher.submit(End(slot, Reason.COMPLETED)):
            raise BenchmarkError(f"session {slot} could not be ended.")
