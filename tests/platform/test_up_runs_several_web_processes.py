"""``manage.py up`` with WEB and SERVER: several processes on the one port, and another server, as usable as the usual ones."""

import http.client
import json
import signal
from collections.abc import Callable

import pytest

from tests.e2e.client import Call
from tests.platform.instance import READY_S, Instance, none_left

pytestmark = pytest.mark.slow
WEB = ("voiceplatform.web",)


def test_two_share_the_port_and_the_loss_of_one_is_not_noticed(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance(WEB="2").start_ready()
    first, second = instance.children(*WEB)
    for one, other in ((first, second), (second, first)):
        other.suspend()
        assert [instance.status("/healthz") for _ in range(5)] == [200] * 5, f"{one.pid} serves alone"
        other.resume()
    assert call_to(instance, new_key(instance)) == "active"

    first.kill()
    answers: list[int] = []

    def is_back() -> bool:
        answers.append(instance.status("/healthz"))
        return len([child for child in instance.children(*WEB) if child.pid != first.pid]) == 2

    instance.wait(is_back, READY_S)
    assert set(answers) == {200}
    assert instance.output.count(" ended, killed by SIGKILL; it is started again in 1 s") == 1
    fresh = next(child for child in instance.children(*WEB) if child.pid != second.pid)
    second.suspend()
    instance.wait(lambda: instance.status() == 200, READY_S)
    second.resume()
    assert fresh.is_running()

    running = instance.processes()
    assert instance.stop() == 0
    assert none_left(running, 5.0)
    assert instance.status() == 0
    assert {line.split(" |")[0].strip() for line in instance.output.splitlines()} >= {"up", "setup", "worker"}
    assert "Traceback" not in instance.output


def test_daphne_talks_and_stops_without_a_trace(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance(SERVER="daphne").start_ready()
    assert "daphne" in instance.child(*WEB).cmdline()
    assert call_to(instance, new_key(instance)) == "active"
    running = instance.processes()
    assert instance.stop(signal.SIGTERM) == 0
    assert none_left(running, 5.0)
    assert "Traceback" not in instance.output


def new_key(instance: Instance) -> str:
    instance.manage("create_tenant", "shop")
    return instance.manage("issue_api_key", "shop").strip()


def call_to(instance: Instance, key: str) -> str:
    """Talk for a moment and return the state that the session had meanwhile."""
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=10)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/connect-tokens", body='{"user": "ann"}', headers=headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    call = Call(answer["ws_url"], answer["token"])
    try:
        session_id = call.start()["session_id"]
        assert call.exchange([b"\x05" * 960]) == [b"\x05" * 960]
        look = f"from sessions_app.models import Session; print(Session.objects.get(pk='{session_id}').state)"
        state = instance.manage("shell", "-v", "0", "-c", look).strip()
        call.stop()
    finally:
        call.end()
    return state
