"""(d): the rival on Valkey: one Lua script that checks the counts of all four scopes, and counts, in one call.

``Singly`` sends each call by itself, each on a connection of a pool that waits for its answer; ``Pipelined`` gathers what a process has to
ask and sends it at once on one connection, the next lot when the answers are back. Both as redis-py does it.

Limits: it keeps counts and who holds a slot; no history, no vectors, no rates.
"""

import asyncio
from typing import Any, Final
from uuid import UUID

import redis.asyncio
import uuid_utils.compat
from redis.asyncio.client import Pipeline

from benchmarks.admission.setting import CAP, RACE_LIMIT, TENANT_LIMIT, USER_LIMIT

MAX_CONNECTIONS: Final = 64  # of a process; who asks beyond that waits for one
ADMIT: Final = """
local used = redis.call('HMGET', KEYS[1], 'platform', 'backend', ARGV[2], ARGV[3])
for scope = 1, 4 do
  if tonumber(used[scope] or '0') >= tonumber(ARGV[3 + scope]) then return 0 end
end
redis.call('HINCRBY', KEYS[1], 'platform', 1)
redis.call('HINCRBY', KEYS[1], 'backend', 1)
redis.call('HINCRBY', KEYS[1], ARGV[2], 1)
redis.call('HINCRBY', KEYS[1], ARGV[3], 1)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
"""
RELEASE: Final = """
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[1], 'platform', -1)
redis.call('HINCRBY', KEYS[1], 'backend', -1)
redis.call('HINCRBY', KEYS[1], ARGV[2], -1)
if redis.call('HINCRBY', KEYS[1], ARGV[3], -1) == 0 then redis.call('HDEL', KEYS[1], ARGV[3]) end
return 1
"""
KEYS: Final = ("rival:used", "rival:slots")

Slot = tuple[UUID, str, str]


class Singly:
    """Each call by itself.

    Args:
        url: Of the Valkey.
        race: The tenant with the small limit.
    """

    def __init__(self, url: str, *, race: int) -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=MAX_CONNECTIONS, timeout=None)
        self.client = redis.asyncio.Redis(connection_pool=pool)
        self._race = race
        self._scripts: list[str] = []

    async def open(self) -> None:
        """Load the scripts."""
        self._scripts = [await self.client.script_load(ADMIT), await self.client.script_load(RELEASE)]

    async def close(self) -> None:
        """Close the connections."""
        await self.client.connection_pool.aclose()
        await self.client.aclose()

    async def admit(self, tenant: int, user: str) -> Slot | None:
        """Take a slot in every scope, or in none."""
        slot = uuid_utils.compat.uuid7(), f"tenant:{tenant}", f"user:{tenant}:{user}"
        limits = (CAP, CAP, RACE_LIMIT if tenant == self._race else TENANT_LIMIT, USER_LIMIT)
        return slot if await self._call(self._scripts[0], str(slot[0]), *slot[1:], *limits) else None

    async def release(self, slot: object) -> None:
        """Give it back."""
        assert isinstance(slot, tuple)
        await self._call(self._scripts[1], str(slot[0]), *slot[1:])

    async def _call(self, script: str, *arguments: str | int) -> Any:
        return await self.client.evalsha(script, len(KEYS), *KEYS, *arguments)


class Pipelined(Singly):
    """All that waits in one go."""

    def __init__(self, url: str, *, race: int) -> None:
        super().__init__(url, race=race)
        self._waiting: list[tuple[str, tuple[str | int, ...], asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def _call(self, script: str, *arguments: str | int) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((script, arguments, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return await answer

    async def _send(self) -> None:
        try:
            while self._waiting:
                calls, self._waiting = self._waiting, []
                pipeline: Pipeline = self.client.pipeline(transaction=False)
                for script, arguments, _ in calls:
                    pipeline.evalsha(script, len(KEYS), *KEYS, *arguments)
                for (_, _, answer), said in zip(calls, await pipeline.execute(), strict=True):
                    answer.set_result(said)
        finally:
            self._sender = None
