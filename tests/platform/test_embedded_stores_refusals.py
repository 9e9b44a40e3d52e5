"""What the embedded stores refuse, each with one sentence."""

import os
import shutil
from pathlib import Path

import pytest

from voiceplatform.embedded import EmbeddedError, Postgres, StoreInUseError, Valkey


def test_a_second_postgres_on_a_live_folder_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    postgres.start()
    with pytest.raises(StoreInUseError, match="PostgreSQL already runs on"):
        Postgres(tmp_path, durable=False).start()
    with pytest.raises(StoreInUseError, match="PostgreSQL runs on"):
        Postgres(tmp_path, durable=False).destroy()
    assert postgres.pid is not None


def test_a_second_valkey_on_a_live_folder_is_refused(valkey: Valkey, tmp_path: Path) -> None:
    valkey.start()
    with pytest.raises(StoreInUseError, match="Valkey already runs on"):
        Valkey(tmp_path).start()
    assert valkey.pid is not None


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedError, match="PostgreSQL cannot be set up: Not a directory"):
        Postgres(tmp_path / "file").start()
    with pytest.raises(EmbeddedError, match="Valkey cannot be set up: Not a directory"):
        Valkey(tmp_path / "file").start()


def test_pg_bin_without_a_postgres_is_refused(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"PG_BIN names .*, which has no PostgreSQL that runs here; version 15 or newer is needed"):
        postgres.start()


def test_data_of_another_major_version_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    postgres.start()
    postgres.stop()
    place = tmp_path / "postgres-place" if os.getuid() == 0 else tmp_path / "postgres"
    (place / "cluster/PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedError, match="is PostgreSQL 14's, but"):
        postgres.start()


def test_data_whose_password_is_lost_is_refused_and_not_removed(postgres: Postgres, tmp_path: Path) -> None:
    postgres.start()
    postgres.stop()
    password = tmp_path / "postgres.password"
    text = password.read_text()
    password.unlink()
    with pytest.raises(EmbeddedError, match=r"The password of the data in .* is missing"):
        postgres.start()
    password.write_text(text)
    postgres.start()


def test_a_server_that_cannot_start_says_why(postgres: Postgres, tmp_path: Path) -> None:
    postgres.start()
    postgres.stop()
    place = tmp_path / "postgres-place" if os.getuid() == 0 else tmp_path / "postgres"
    with (place / "cluster/postgresql.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    with pytest.raises(EmbeddedError, match=r"PostgreSQL did not start: .*postgresql.conf.*postgres\.log"):
        postgres.start()
    assert postgres.pid is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root's cluster lives outside its data folder")
def test_a_data_folder_made_anew_is_an_empty_platform(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    first = Postgres(folder)
    first.start()
    identity = _system_identifier(folder)
    first.stop()
    shutil.rmtree(folder)
    folder.mkdir()
    second = Postgres(folder)
    try:
        second.start()
        assert _system_identifier(folder) != identity
    finally:
        second.destroy()


def _system_identifier(folder: Path) -> bytes:
    """What a cluster is known by, the first field of this file."""
    return (folder / "postgres-place/cluster/global/pg_control").read_bytes()[:8]
