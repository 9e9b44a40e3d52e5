"""Real livekit-servers for tests, each with a configuration, keys and ports of its own; a pytest plugin (``-p tests.livekit_server``).

Where there is no livekit-server the tests that want one are skipped, but with ``CI=true`` they fail. ``make test`` has Go install one.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sessions_app.providers.base import BackendConfig
from sessions_app.providers.livekit.provider import LiveKitProvider
from voiceplatform.embedded import livekit_program
from voiceplatform.embedded.livekit import LiveKit, new_keys

ABSENT = f"There is no livekit-server here. {livekit_program.WHERE}"

NewLiveKit = Callable[..., LiveKit]


def config_of(server: LiveKit, **options: object) -> BackendConfig:
    """A backend on this server, without an agent unless the options say so."""
    return BackendConfig(
        name="livekit",
        options={"url": server.url, "agent_timeout_s": 0, **options},
        secrets={"api_key": server.key, "api_secret": server.secret},
    )


def provider_of(server: LiveKit, **options: object) -> LiveKitProvider:
    """Its provider; close it with ``aclose``."""
    return LiveKitProvider(config_of(server, **options))


def _is_missing() -> bool:
    """Whether tests have to do without; in CI they fail instead."""
    return livekit_program.find() is None and os.environ.get("CI") != "true"


needs_livekit = pytest.mark.skipif(_is_missing(), reason=ABSENT)  # for tests that have the product start one


def start_server(folder: Path, *, webhooks: Sequence[str] = (), auto_create: bool = False) -> LiveKit:
    """Start a livekit-server with two keys in this folder, or skip the test."""
    if _is_missing():
        pytest.skip(ABSENT)
    server = LiveKit(folder, webhooks=webhooks, auto_create=auto_create, keys=new_keys() | new_keys())
    server.start()
    return server


@pytest.fixture(scope="session")
def livekit() -> Iterator[LiveKit]:
    """A livekit-server that tests of this process share: no webhooks, and rooms are made by its API only."""
    with tempfile.TemporaryDirectory(prefix="voiceplatform-livekit-") as folder:
        server = start_server(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def new_livekit(tmp_path: Path) -> Iterator[NewLiveKit]:
    """Start livekit-servers of this test's own: ``new_livekit(webhooks=[…], auto_create=…)``; kill and start them as you like."""
    made: list[LiveKit] = []

    def make(*, webhooks: Sequence[str] = (), auto_create: bool = False) -> LiveKit:
        folder = tmp_path / f"livekit{len(made)}"
        folder.mkdir()
        made.append(start_server(folder, webhooks=webhooks, auto_create=auto_create))
        return made[-1]

    yield make
    for server in made:
        server.kill()
