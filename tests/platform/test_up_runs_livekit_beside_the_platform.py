"""``manage.py up --livekit`` runs a livekit-server and the echo agent too; with the three variables, the agent alone."""

import json
import stat
from collections.abc import Callable

import psutil
import pytest

from tests.livekit_server import NewLiveKit, needs_livekit
from tests.platform.instance import READY_S, Instance, none_left
from tests.platform.test_up_refuses_to_start import one_sentence

pytestmark = pytest.mark.slow
STARTED_AGAIN_S = 60.0
BACKEND = (
    "import json; from sessions_app.models import Backend; b = Backend.objects.get(name='livekit'); "
    "h = getattr(b, 'health', None); print(json.dumps([b.options, b.secrets, b.transports, h and h.status]))"
)


def backend(instance: Instance) -> tuple[dict[str, str], dict[str, str], list[str], str]:
    """Options, secrets, transports and health of the backend that was made."""
    options, secrets, transports, health = json.loads(instance.manage("shell", "-v", "0", "-c", BACKEND))
    return options, secrets, transports, health


@needs_livekit
def test_its_server_and_the_echo_agent_run_are_started_again_and_stop_with_it(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance("--livekit").start_ready()
    known = json.loads((instance.folder / "livekit.json").read_text())
    assert known["url"] in instance.output
    assert known["api_secret"] not in instance.output
    for path in ("livekit.json", "livekit/keys.json", "livekit/livekit.yaml"):
        assert stat.S_IMODE((instance.folder / path).stat().st_mode) == 0o600
    settings = json.loads((instance.folder / "livekit/livekit.yaml").read_text())
    assert settings["room"] == {"auto_create": False}
    assert settings["webhook"]["urls"] == [f"http://127.0.0.1:{instance.port}/webhooks/livekit/livekit/"]
    options, secrets, transports, _ = backend(instance)
    assert (options["url"], secrets, transports) == (
        known["url"],
        {"api_key": known["api_key"], "api_secret": known["api_secret"]},
        ["webrtc"],
    )
    instance.wait(lambda: backend(instance)[3] == "healthy", STARTED_AGAIN_S)
    for name, words in {"agent": ("manage.py", "echo_agent"), "LiveKit": ("livekit-server",)}.items():
        killed = instance.child(*words)
        killed.kill()
        instance.wait(lambda name=name: f"{name} ended, " in instance.output, STARTED_AGAIN_S)  # type: ignore[misc]
        instance.wait(lambda words=words, old=killed: _runs_anew(instance, words, old), STARTED_AGAIN_S)  # type: ignore[misc]
    running = instance.processes()
    assert instance.stop() == 0
    assert none_left(running, 10.0)
    assert not (instance.folder / "livekit.json").exists()
    assert "Traceback" not in instance.output


@needs_livekit
def test_a_server_that_runs_elsewhere_is_used_and_followed_when_its_key_changes(
    new_instance: Callable[..., Instance], new_livekit: NewLiveKit
) -> None:
    server, later = new_livekit(), new_livekit()
    instance = new_instance(LIVEKIT_URL=server.url, LIVEKIT_API_KEY=server.key, LIVEKIT_API_SECRET=server.secret).start_ready()
    assert server.secret not in instance.output
    options, secrets, _, _ = backend(instance)
    assert (options["url"], secrets) == (server.url, {"api_key": server.key, "api_secret": server.secret})
    assert instance.child("manage.py", "echo_agent").is_running()
    instance.wait(lambda: backend(instance)[3] == "healthy", READY_S)
    assert instance.stop() == 0

    instance.environment.update(LIVEKIT_URL=later.url, LIVEKIT_API_KEY=later.key, LIVEKIT_API_SECRET=later.secret)
    instance.start_ready()
    options, secrets, _, _ = backend(instance)
    assert options["url"] == later.url
    assert secrets == {
        "api_key": later.key,
        "api_secret": later.secret,
        "previous_api_key": server.key,
        "previous_api_secret": server.secret,
    }
    assert instance.stop() == 0


def test_variables_that_do_not_fit_together_are_named(new_instance: Callable[..., Instance]) -> None:
    half = one_sentence(new_instance(LIVEKIT_URL="ws://127.0.0.1:1", LIVEKIT_API_KEY="key").refusal())
    assert half == "voiceplatform: LIVEKIT_URL and LIVEKIT_API_KEY are set, but not LIVEKIT_API_SECRET."
    both = one_sentence(new_instance("--livekit", LIVEKIT_URL="ws://127.0.0.1:1").refusal())
    assert both.startswith("voiceplatform: LIVEKIT_URL names a LiveKit that runs elsewhere: ")


def test_a_program_that_is_not_there_is_named(new_instance: Callable[..., Instance]) -> None:
    sentence = one_sentence(new_instance("--livekit", LIVEKIT_SERVER_BIN="/nowhere/livekit-server").refusal())
    assert sentence == "voiceplatform: LIVEKIT_SERVER_BIN names /nowhere/livekit-server, which is no program."


def _runs_anew(instance: Instance, words: tuple[str, ...], old: psutil.Process) -> bool:
    try:
        return bool(instance.child(*words).pid != old.pid)
    except (StopIteration, psutil.Error):
        return False
