"""``python -m voiceplatform.web`` that cannot start says why in one sentence, with exit code 2 and no traceback."""

import os
import socket
import subprocess
import sys

import pytest

from tests.platform.instance import PROJECT, free_port


def refusal(*options: str, **environment: str) -> str:
    """Return its sentence."""
    command = [sys.executable, "-m", "voiceplatform.web", *options]
    ended = subprocess.run(command, cwd=PROJECT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    lines: list[str] = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    return lines[0]


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
def test_a_busy_port_is_named(server: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        sentence = refusal("--server", server, PORT=str(port))
    assert sentence == f"voiceplatform: Port {port} on 127.0.0.1 cannot be used: Address already in use. Set PORT to another."


def test_a_server_that_there_is_not_is_named() -> None:
    assert refusal(SERVER="apache") == "voiceplatform: SERVER must be uvicorn or daphne, not 'apache'."


def test_a_descriptor_that_is_no_listening_socket_is_named() -> None:
    assert refusal("--fd", "99") == "voiceplatform: File descriptor 99 is no socket: Bad file descriptor."


def test_missing_secrets_are_named() -> None:
    sentence = refusal(PORT=str(free_port()), SECRET_KEY="", VOICE_DATA_DIR="/nonexistent")
    assert sentence.startswith("voiceplatform: ")
    assert "SECRET_KEY" in sentence
