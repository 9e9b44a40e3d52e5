"""Database work for code on the event loop: in a few threads of our own, whose connections go back to the pool after each call."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from django.db import connection

THREADS: Final = 3
ROOM_THREADS: Final = 2

P = ParamSpec("P")
R = TypeVar("R")

# Rooms are looked after in threads of their own, so that whoever is being let in never waits behind a crowd of webhooks.
_room_threads: Final = ThreadPoolExecutor(ROOM_THREADS, thread_name_prefix="voice-rooms")
_threads: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="voice-db")


async def in_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run ``work`` in a thread and return its result; its exceptions are raised here."""
    return await _in(_threads, functools.partial(work, *args, **kwargs))


async def in_room_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The same, for those who look after rooms."""
    return await _in(_room_threads, functools.partial(work, *args, **kwargs))


async def _in(threads: ThreadPoolExecutor, work: Callable[[], R]) -> R:
    def run() -> R:
        try:
            return work()
        finally:
            connection.close()

    return await asyncio.get_running_loop().run_in_executor(threads, run)
