"""``manage.py up`` that cannot start says why in one sentence, with an exit code and no traceback."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.platform.instance import Instance, free_port


def one_sentence(refusal: tuple[int, str]) -> str:
    """Return the sentence of a refused start."""
    code, output = refusal
    lines = output.splitlines()
    assert code == 2, output
    assert len(lines) == 1, output
    assert lines[0].startswith("voiceplatform: "), output
    return lines[0]


def test_a_busy_port_is_named(new_instance: Callable[..., Instance]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sentence = one_sentence(new_instance(PORT=str(port)).refusal())
    assert sentence == f"voiceplatform: Port {port} on 127.0.0.1 cannot be used: Address already in use. Set PORT to another."


def test_a_folder_that_cannot_be_written_is_named(new_instance: Callable[..., Instance], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    sentence = one_sentence(new_instance(VOICE_DATA_DIR=str(file / "data")).refusal())
    assert sentence == f"voiceplatform: The data folder {file / 'data'} cannot be written: Not a directory. Set VOICE_DATA_DIR to another."


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "eighty", "PORT must be a whole number, not 'eighty'."),
        ("PORT", "70000", "PORT must be between 1 and 65535, not 70000."),
        ("WEB", "two", "WEB must be a whole number, not 'two'."),
        ("WEB", "0", "WEB must be between 1 and 16, not 0."),
        ("WEB", "17", "WEB must be between 1 and 16, not 17."),
        ("SERVER", "apache", "SERVER must be uvicorn or daphne, not 'apache'."),
        ("VOICE_BIND", "no.such.host.invalid", "VOICE_BIND is 'no.such.host.invalid', which is no address of this machine."),
    ],
)
def test_a_wrong_setting_is_named(new_instance: Callable[..., Instance], tmp_path: Path, name: str, value: str, sentence: str) -> None:
    instance = new_instance()
    instance.environment[name] = value
    assert one_sentence(instance.refusal()) == f"voiceplatform: {sentence}"


def test_stores_that_are_named_but_not_there_are_refused_without_their_password(new_instance: Callable[..., Instance]) -> None:
    database = f"postgresql://voice:do-not-show@127.0.0.1:{free_port()}/voice"
    sentence = one_sentence(new_instance(DATABASE_URL=database).refusal())
    assert sentence.startswith("voiceplatform: DATABASE_URL cannot be used: ")
    assert "do-not-show" not in sentence


def test_pg_bin_without_a_postgres_is_refused(new_instance: Callable[..., Instance], tmp_path: Path) -> None:
    code, output = new_instance(PG_BIN=str(tmp_path)).refusal()
    assert code == 2
    assert output.splitlines()[-1].startswith(f"voiceplatform: PG_BIN names {tmp_path}, which has no PostgreSQL that runs here")


def test_help_makes_nothing(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance()
    for variable in ("VOICE_DATA_DIR", "SERVER", "WEB"):
        assert f"  {variable} " in instance.manage("up", "--help")
    assert "VOICE_DATA_DIR" in instance.manage("help", "up")
    assert not instance.folder.exists()


@pytest.mark.slow
def test_a_second_one_needs_a_folder_and_a_port_of_its_own(new_instance: Callable[..., Instance], tmp_path: Path) -> None:
    first = new_instance().start_ready()
    same_folder = one_sentence(new_instance().refusal())
    assert same_folder.endswith(f"Another instance runs on {first.folder}: stop it, or set VOICE_DATA_DIR to another folder.")
    same_port = one_sentence(new_instance(folder=tmp_path / "other", PORT=str(first.port)).refusal())
    assert "cannot be used: Address already in use" in same_port
    second = new_instance(folder=tmp_path / "second").start_ready()
    assert first.status() == second.status() == 200
    first.manage("create_tenant", "first")
    second.manage("create_tenant", "first")
    assert first.stop() == 0
    assert second.status() == 200
    assert second.stop() == 0
