"""The embedded stores run, ask for a password, and keep what they were given."""

import os
import pwd
import stat
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from voiceplatform.embedded import Postgres, Stores, Valkey


def test_both_stores_start_and_stop_together(tmp_path: Path) -> None:
    stores = Stores(tmp_path, durable=False)
    try:
        stores.start()
        assert stores.check() is None
        with psycopg.connect(stores.database_url) as connection:
            assert connection.execute("SELECT current_user::text, current_database()::text").fetchone() == ("voice", "voice")
        with redis.Redis.from_url(stores.valkey_url) as client:
            assert client.ping()
        stores.stop()
        assert stores.check() == "PostgreSQL"
    finally:
        stores.postgres.destroy()
        stores.stop()


def test_postgres_keeps_rows_over_a_restart(postgres: Postgres) -> None:
    postgres.start()
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    postgres.stop()
    assert postgres.pid is None
    postgres.start()
    with psycopg.connect(postgres.url) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)


def test_valkey_keeps_values_over_a_restart(valkey: Valkey) -> None:
    valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        client.set("kept", "7")
    valkey.stop()
    valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        assert client.get("kept") == b"7"


def test_postgres_refuses_a_wrong_password(postgres: Postgres) -> None:
    postgres.start()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url, password="wrong")


def test_valkey_refuses_who_has_no_password(valkey: Valkey) -> None:
    valkey.start()
    port = int(valkey.url.rpartition(":")[2].partition("/")[0])
    with redis.Redis(port=port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_postgres_listens_on_no_port_and_valkey_on_this_machine_only(postgres: Postgres, valkey: Valkey) -> None:
    postgres.start()
    valkey.start()
    assert postgres.pid is not None
    assert valkey.pid is not None
    assert not psutil.Process(postgres.pid).net_connections("inet")
    listening = [found for found in psutil.Process(valkey.pid).net_connections("inet") if found.status == psutil.CONN_LISTEN]
    assert [found.laddr.ip for found in listening] == ["127.0.0.1"]


def test_passwords_are_readable_by_their_owner_only(postgres: Postgres, valkey: Valkey, tmp_path: Path) -> None:
    postgres.start()
    valkey.start()
    for name in ("postgres.password", "valkey/password", "valkey/valkey.conf"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name


def test_what_lasts_is_durable_and_a_throwaway_is_not(tmp_path: Path) -> None:
    expected = {True: ("on", "on", "on", "200"), False: ("off", "on", "off", "200")}
    for durable, settings in expected.items():
        folder = tmp_path / str(durable)
        folder.mkdir()
        store = Postgres(folder, durable=durable)
        try:
            store.start()
            with psycopg.connect(store.url) as connection:
                names = ("fsync", "synchronous_commit", "full_page_writes", "max_connections")
                assert tuple(connection.execute(f"SHOW {name}").fetchone()[0] for name in names) == settings  # type: ignore[index]
        finally:
            store.destroy()


def test_postgres_runs_as_somebody_who_is_not_root(postgres: Postgres) -> None:
    postgres.start()
    assert postgres.pid is not None
    assert psutil.Process(postgres.pid).uids().real == (os.getuid() or pwd.getpwnam("nobody").pw_uid)


def test_a_folder_with_a_long_name_and_no_way_in_for_others_will_do(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folder = closed / ("x" * 100)
    folder.mkdir()
    store = Postgres(folder, durable=False)
    try:
        store.start()
        with psycopg.connect(store.url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        store.destroy()
