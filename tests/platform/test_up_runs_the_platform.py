"""``manage.py up`` on a fresh folder: ready, usable, stopped without a trace, and all still there at the next start."""

import re
import signal
import stat
from collections.abc import Callable

import psutil
import pytest

from tests.platform.instance import READY_S, Instance, none_left

pytestmark = pytest.mark.slow
STARTED_AGAIN_S = 60.0


def test_it_serves_stops_without_a_trace_and_goes_on_where_it_was(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance().start_ready()
    for path in ("/talk/", "/admin/", "/ops/sessions/"):
        assert f"http://127.0.0.1:{instance.port}{path}" in instance.output
    assert len(re.findall(r"^setup  \| admin password: \S+", instance.output, re.MULTILINE)) == 1
    assert instance.status() == 200
    assert stat.S_IMODE(instance.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((instance.folder / "secrets.json").stat().st_mode) == 0o600
    instance.manage("create_tenant", "lasting")
    running = instance.processes()
    assert instance.stop(signal.SIGTERM) == 0
    assert none_left(running, 5.0)
    assert instance.status() == 0
    assert "Traceback" not in instance.output

    instance.start_ready()
    assert instance.output.count("admin password:") == 1
    assert "lasting" in instance.manage(
        "shell", "-v", "0", "-c", "from tenants.models import Tenant; print(Tenant.objects.get(slug='lasting').slug)"
    )
    running = instance.processes()
    assert instance.stop(signal.SIGINT) == 0
    assert none_left(running, 5.0)


def test_every_part_that_is_killed_is_started_again(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance().start_ready()
    parts = {"web": ("voiceplatform.web",), "worker": ("celery", "worker"), "beat": ("celery", "beat")}
    parts |= {"PostgreSQL": ("postgres", "-D"), "Valkey": ("valkey-server",)}
    for name, words in parts.items():
        killed = instance.child(*words)
        family = [killed, *killed.children(recursive=True)]
        killed.kill()
        # What a killed PostgreSQL was doing for others ends too, when it is started again.
        instance.wait(lambda name=name: f"{name} ended, " in instance.output, STARTED_AGAIN_S)  # type: ignore[misc]
        instance.wait(lambda words=words, old=killed: _has_child_other_than(instance, words, old), STARTED_AGAIN_S)  # type: ignore[misc]
        assert none_left(family, 10.0)
    instance.wait(lambda: instance.status() == 200, READY_S)
    assert instance.stop() == 0


def test_nothing_runs_on_when_it_is_killed_itself_and_the_next_start_is_ready(new_instance: Callable[..., Instance]) -> None:
    instance = new_instance().start_ready()
    instance.manage("create_tenant", "lasting")
    running = instance.processes()
    running[0].kill()
    assert none_left(running, 10.0)
    assert instance.process is not None
    instance.process.wait()

    instance.start_ready()
    instance.manage("set_quota", "lasting", "max_concurrent_sessions=3")
    assert instance.stop() == 0


def _has_child_other_than(instance: Instance, words: tuple[str, ...], old: psutil.Process) -> bool:
    try:
        return bool(instance.child(*words).pid != old.pid)
    except (StopIteration, psutil.Error):
        return False
