import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

from sessions_app.models import Backend, Platform
from tenants.models import Membership, Quota, Tenant
from tests.world import database_url

PROJECT = Path(__file__).resolve().parent.parent.parent


def said(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()


def test_set_backend_makes_and_changes(committed_db: None) -> None:
    assert said("set_backend", "echo", "provider=loopback") == "Made backend echo (provider loopback, cap 100).\n"
    assert said("set_backend", "echo", "cap=", "weight=3", "draining=yes", "burst_below=0.5", 'options={"delay_ms": 5}') == (
        "Changed backend echo (provider loopback, cap unlimited).\n"
    )
    echo = Backend.objects.get()
    assert (echo.cap, echo.weight, echo.enabled, echo.draining, echo.burst_below, echo.options) == (
        None,
        3,
        True,
        True,
        0.5,
        {"delay_ms": 5},
    )
    said("set_backend", "echo", "cap=0", "draining=off")
    assert Backend.objects.filter(cap=0, draining=False).exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["cap=-1"], "greater than or equal to 0"),
        (["cap=many"], "cap: “many” value must be an integer."),
        (["cap"], "Write FIELD=VALUE, not 'cap'."),
        (["enabled=perhaps"], "enabled must be true or false, not 'perhaps'."),
        (["burst_below=2"], "less than or equal to 1"),
        (["burst_below=nan"], "burst_below"),
        (["colour=red"], "There is no field 'colour'. Fields: "),
        (["options={"], "options must be JSON."),
        (["options=[]", "pipelines={}"], "Options must be a JSON object."),
        (["pipelines=5"], "Pipelines must be a JSON object"),
        (['transports=["telegraph"]'], "Transports must be a JSON list of webrtc and websocket."),
        (["transports=[[]]"], "Transports must be a JSON list"),
        (["secrets=[1]"], "Secrets must be a JSON object of texts."),
        (["weight="], "cannot be null"),
        (["cap=99999999999"], "less than or equal to"),
    ],
)
def test_set_backend_refuses_with_a_sentence_and_changes_nothing(committed_db: None, words: list[str], told: str) -> None:
    said("set_backend", "echo", "provider=loopback")
    with pytest.raises(CommandError) as refused:
        said("set_backend", "echo", "weight=7", *words)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
    assert Backend.objects.get().weight == 1


def test_set_backend_makes_nothing_without_a_provider_or_with_a_wrong_name(committed_db: None) -> None:
    for words in (["echo"], ["not a slug", "provider=loopback"]):
        with pytest.raises(CommandError):
            said("set_backend", *words)
    assert not Backend.objects.exists()


def test_set_platform_sets_and_unsets_the_cap(committed_db: None) -> None:
    assert said("set_platform", "max_concurrent_sessions=5") == "The platform takes 5 sessions at once.\n"
    assert Platform.objects.get().max_concurrent_sessions == 5
    assert said("set_platform", "max_concurrent_sessions=") == "The platform takes any number of sessions at once.\n"
    assert Platform.objects.get().max_concurrent_sessions is None


@pytest.mark.parametrize("word", ["max_concurrent_sessions=-1", "max_concurrent_sessions=x", "id=2", "nothing"])
def test_set_platform_refuses_with_a_sentence(committed_db: None, word: str) -> None:
    with pytest.raises(CommandError) as refused:
        said("set_platform", word)
    assert "\n" not in str(refused.value)
    assert Platform.objects.get().max_concurrent_sessions is None


def test_bootstrap_makes_a_platform_to_be_tried_once(committed_db: None) -> None:
    first = said("bootstrap")
    admin = get_user_model().objects.get()
    password = first.split("admin password: ")[1].split()[0]
    assert admin.check_password(password)
    assert admin.is_superuser
    assert Quota.objects.get(tenant=Tenant.objects.get(slug="demo")).max_concurrent_sessions == 10
    assert Membership.objects.filter(user=admin, tenant__slug="demo").exists()
    assert Backend.objects.get().provider == "loopback"
    assert said("bootstrap") == ""
    assert (get_user_model().objects.count(), Tenant.objects.count(), Backend.objects.count()) == (1, 1, 1)


def test_bootstrap_keeps_what_is_there(committed_db: None) -> None:
    said("set_backend", "mine", "provider=loopback")
    get_user_model().objects.create_user("someone")
    assert said("bootstrap") == ""
    assert list(Backend.objects.values_list("name", flat=True)) == ["mine"]
    assert get_user_model().objects.count() == 1


@pytest.mark.slow
def test_wrong_input_on_a_real_command_line_is_one_line_and_an_exit_code(committed_db: None) -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "set_backend", "echo", "cap=many"],
        cwd=PROJECT, env=os.environ | {"DATABASE_URL": database_url()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)


@pytest.mark.parametrize("command", ["bootstrap", "set_backend", "set_platform", "verify_capacity"])
def test_help_says_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        call_command(command, "--help")
    assert end.value.code == 0
    assert len(capsys.readouterr().out) > 100
