"""Client processes, so that who loads the server does not share an event loop with who measures it.

Both ends: ``Worker`` in the benchmark, ``serve`` in the client process. They speak lines of JSON over the child's standard input and
output; the first line is its configuration, which may hold keys and so is no argument. A child ends when its input does.
"""

import asyncio
import gc
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.harness.errors import BenchmarkError
from benchmarks.harness.stage import PROJECT

STOP_S: Final = 10.0
Message = dict[str, Any]


class Worker:
    """``python -m MODULE`` as a child; a context manager.

    Args:
        module: Its ``__main__`` calls ``serve``.
        configuration: What it is told first.
    """

    def __init__(self, module: str, configuration: Message) -> None:
        self.module = module
        self._configuration = configuration
        self._heard: queue.Queue[Message | None] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._listen, name=self.module, daemon=True).start()
        self.say(self._configuration)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._process.kill()
        self._process.wait()

    def say(self, message: Message) -> None:
        """Send it a message.

        Raises:
            BenchmarkError: It has ended.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{json.dumps(message)}\n")
            self._process.stdin.flush()
        except OSError:
            raise BenchmarkError(f"{self.module} has ended.") from None

    def hear(self, kind: str, timeout_s: float) -> Message:
        """Return its next message with this ``kind``; others before it are passed over.

        Raises:
            BenchmarkError: None came in time, or it has ended.
        """
        until = time.monotonic() + timeout_s
        while True:
            try:
                message = self._heard.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise BenchmarkError(f"{self.module} did not say {kind!r} within {timeout_s:g} s.") from None
            if message is None:
                raise BenchmarkError(f"{self.module} has ended.")
            if message["kind"] == kind:
                return message

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._heard.put(json.loads(line))
        self._heard.put(None)


class Parent:
    """The benchmark, as its client process sees it.

    Attributes:
        configuration: What it said first.
        gone: Set when it says no more.
    """

    def __init__(self, configuration: Message) -> None:
        self.configuration = configuration
        self.gone = asyncio.Event()
        self._said: asyncio.Queue[Message] = asyncio.Queue()

    def tell(self, kind: str, **fields: Any) -> None:
        """Tell it something."""
        sys.stdout.write(f"{json.dumps({'kind': kind, **fields})}\n")
        sys.stdout.flush()

    async def next(self) -> Message:
        """Return what it says next."""
        return await self._said.get()

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read what it says, in a thread, from now on."""

        def read() -> None:
            with suppress(RuntimeError):  # the loop is closed: this process is done
                for line in sys.stdin:
                    loop.call_soon_threadsafe(self._said.put_nowait, json.loads(line))
                loop.call_soon_threadsafe(self.gone.set)

        threading.Thread(target=read, name="parent", daemon=True).start()


def serve(main: Callable[[Parent], Awaitable[None]]) -> None:
    """Run a client process: ``main`` ends when it is done, or when the benchmark is gone."""
    import uvloop

    async def run() -> None:
        parent = Parent(json.loads(sys.stdin.readline()))
        parent.listen(asyncio.get_running_loop())
        work, gone = asyncio.ensure_future(main(parent)), asyncio.ensure_future(parent.gone.wait())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if work.done():
            work.result()
        work.cancel()

    # A full collection would be taken for the server's lateness.
    gc.freeze()
    gc.disable()
    uvloop.run(run())
