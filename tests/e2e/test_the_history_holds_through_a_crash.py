"""In the middle of a stampede a web process is killed, or PostgreSQL is shut down at once: afterwards every number still adds up."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from sessions_app.models import Session, Slot, Waiter
from sessions_app.runtime.database import in_thread
from tests import world
from tests.batcher.private_database import forget_connections
from tests.e2e import private_stores
from tests.e2e.rows import new_token
from tests.e2e.server import Server, manage, wait_until
from tests.platform.instance import known_dead
from voiceplatform.embedded import Postgres

CLIENTS, CAP, QUEUE = 240, 40, 40
STRUCK_AFTER = 60  # answers


@pytest.fixture(scope="module")
def postgres(django_db_setup: None, django_db_blocker: Any) -> Iterator[Postgres]:
    with django_db_blocker.unblock(), private_stores.own_postgres() as store:
        yield store


@pytest.fixture
def servers(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    pair = [Server(tmp_path_factory.mktemp("server"), DATABASE_URL=postgres.url) for _ in range(2)]
    try:
        for each in pair:
            each.start()
        yield pair
    finally:
        for each in pair:
            each.end()


class Stampede:
    """Many clients at once; each talks for a moment when it is let in, then hangs up."""

    def __init__(self, urls: list[str], tokens: list[str]) -> None:
        self.answers: Counter[str] = Counter()
        self.struck = asyncio.Event()
        self._who = [(urls[number % len(urls)], token) for number, token in enumerate(tokens)]

    async def run(self) -> None:
        await asyncio.gather(*(self._one(*who) for who in self._who))

    async def _one(self, url: str, token: str) -> None:
        try:
            async with connect(
                url, subprotocols=[Subprotocol("voice.v1"), Subprotocol(f"token.{token}")], compression=None, proxy=None
            ) as socket:
                await socket.send(json.dumps({"type": "session.start"}))
                while True:
                    heard = await asyncio.wait_for(socket.recv(), 30)
                    kind = json.loads(heard)["type"] if isinstance(heard, str) else "audio"
                    self.answers[kind] += 1
                    if self.answers.total() >= STRUCK_AFTER:
                        self.struck.set()
                    if kind == "session.started":
                        await socket.send(json.dumps({"type": "session.stop"}))
        except (WebSocketException, OSError, TimeoutError) as error:
            self.answers[type(error).__name__] += 1


async def stampede_and(servers: list[Server], strike: Callable[[], None]) -> None:
    def prepare() -> list[str]:
        tenant = world.make_tenant(
            f"crowd-{servers[0].port}", max_concurrent_sessions=CAP, max_queue_length=QUEUE, grace_s=2, sessions_per_minute=None
        )
        return [new_token(tenant, f"user-{number}") for number in range(CLIENTS)]

    crowd = Stampede([each.socket_url for each in servers], await in_thread(prepare))
    running = asyncio.create_task(crowd.run())
    await asyncio.wait_for(crowd.struck.wait(), 30)
    await in_thread(strike)
    await running
    assert crowd.answers["session.started"] > 0, crowd.answers


def assert_all_adds_up() -> None:
    wait_until(lambda: not Slot.objects.exists() and not Waiter.objects.exists(), 30, "the end of every session")
    assert not Session.objects.filter(ended_at=None).exists()
    assert "History is clean" in manage("verify_capacity", "--history")


async def test_after_the_kill_of_a_web_process(servers: list[Server]) -> None:
    await stampede_and(servers, servers[0].kill)
    await in_thread(assert_all_adds_up)


async def test_after_an_immediate_shutdown_of_postgresql(postgres: Postgres, servers: list[Server]) -> None:
    def strike() -> None:
        assert postgres.pid is not None
        os.kill(postgres.pid, signal.SIGQUIT)
        assert known_dead(postgres, 10)
        postgres.start()
        forget_connections()

    await stampede_and(servers, strike)
    await in_thread(assert_all_adds_up)
