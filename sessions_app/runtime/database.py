"""Database work for code on the event loop: in a few threads of our own, whose connections go back to the pool after each call."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from django.db import connection

THREADS: Final = 3

P = ParamSpec("P")
R = TypeVar("R")

_threads: Final = ThreadPoolExecutor(THREADS, thread_name_prefix="voice-db")


async def in_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run ``work`` in a thread and return its result; its exceptions are raised here."""

    def run() -> R:
        try:
            return work(*args, **kwargs)
        finally:
            connection.close()

    return await asyncio.get_running_loop().run_in_executor(_threads, run)
