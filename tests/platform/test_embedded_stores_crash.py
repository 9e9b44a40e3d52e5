"""The embedded stores come back after ``kill -9``, of themselves and of who started them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from tests.platform.instance import PROJECT, known_dead, none_left
from voiceplatform.embedded import Postgres, Stores, Valkey

START_AND_WAIT = """
import pathlib, sys
from voiceplatform.embedded import Stores
stores = Stores(pathlib.Path(sys.argv[1]))
stores.start()
print(stores.postgres.pid, stores.valkey.pid, stores.database_url, stores.valkey_url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    Postgres(tmp_path).destroy()


def test_postgres_starts_again_after_being_killed_and_kept_what_it_acknowledged(postgres: Postgres) -> None:
    postgres.start()
    url, pid = postgres.url, postgres.pid
    assert pid is not None
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    os.kill(pid, signal.SIGKILL)
    assert known_dead(postgres, 10.0)
    assert postgres.pid is None
    postgres.start()
    assert postgres.url == url
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


def test_postgres_starts_again_although_a_killed_ones_session_is_still_busy(postgres: Postgres) -> None:
    postgres.start()
    assert postgres.pid is not None
    server = psutil.Process(postgres.pid)
    with closing(psycopg.connect(postgres.url)) as connection, closing(psycopg.connect(postgres.url, autocommit=True)) as watcher:
        # A loop that looks at nothing: it does not notice that its server is gone.
        connection.pgconn.send_query(b"DO $$BEGIN LOOP END LOOP; END$$")
        query = "SELECT pid FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
        while watcher.execute(query, [connection.info.backend_pid]).fetchone() is None:
            assert connection.pgconn.socket
        busy = psutil.Process(connection.info.backend_pid)
        server.kill()
        assert none_left([server], 10.0)
        assert busy.is_running()
        postgres.start()
        assert none_left([busy], 1.0)
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_valkey_starts_again_at_the_same_address_after_being_killed(valkey: Valkey) -> None:
    valkey.start()
    url, pid = valkey.url, valkey.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert known_dead(valkey, 10.0)
    valkey.start()
    assert valkey.url == url
    with redis.Redis.from_url(url) as client:
        assert client.ping()


def test_nothing_runs_on_when_the_starter_is_killed_and_the_next_start_finds_all(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(folder)], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        postgres_pid, valkey_pid, database_url, valkey_url = starter.stdout.readline().split()
        with psycopg.connect(database_url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        with redis.Redis.from_url(valkey_url) as client:
            client.set("kept", "7")
            client.waitaof(1, 0, 5000)
        running = [psutil.Process(int(pid)) for pid in (postgres_pid, valkey_pid)]
        running += [child for process in running for child in process.children(recursive=True)]
        starter.kill()
        starter.wait()
    assert none_left(running, 10.0)

    stores = Stores(folder)
    try:
        stores.start()
        with psycopg.connect(stores.database_url) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
        with redis.Redis.from_url(stores.valkey_url) as client:
            assert client.get("kept") == b"7"
    finally:
        stores.stop()
