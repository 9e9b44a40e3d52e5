"""The backend that ``make run`` makes for a LiveKit follows its address and keys, and leaves to operators what is theirs."""

from typing import Any

import pytest

from sessions_app.models import Backend
from sessions_app.services import configuration

pytestmark = pytest.mark.usefixtures("committed_db")
FIRST = {"url": "ws://127.0.0.1:1", "api_key": "APIone", "api_secret": "secret-one", "echo_agent_url": "http://127.0.0.1:2"}


def keep(**changes: str) -> bool:
    return configuration.keep_livekit(name="livekit", **{**FIRST, **changes})


def backend() -> Backend:
    return Backend.objects.get(name="livekit")


def change(**fields: Any) -> None:
    Backend.objects.filter(name="livekit").update(**fields)


def test_it_is_made_for_webrtc_with_the_echo_agent() -> None:
    assert keep()
    made = backend()
    assert (made.provider, made.transports, set(made.pipelines)) == ("livekit", ["webrtc"], {"s2s", "stt_tts"})
    assert made.options == {"url": FIRST["url"], "echo_agent_url": FIRST["echo_agent_url"]}
    assert made.secrets == {"api_key": "APIone", "api_secret": "secret-one"}


def test_without_an_echo_agent_none_is_waited_for() -> None:
    keep(echo_agent_url="")
    assert backend().options == {"url": FIRST["url"], "agent_timeout_s": 0}


def test_nothing_new_changes_nothing() -> None:
    keep()
    before = backend().updated_at
    assert not keep()
    assert backend().updated_at == before


def test_a_new_key_leaves_the_former_one_good_for_webhooks() -> None:
    keep()
    assert keep(api_key="APItwo", api_secret="secret-two")
    assert backend().secrets == {
        "api_key": "APItwo",
        "api_secret": "secret-two",
        "previous_api_key": "APIone",
        "previous_api_secret": "secret-one",
    }


def test_what_an_operator_set_stays() -> None:
    keep()
    change(cap=7, enabled=False, options={"url": FIRST["url"], "agent_name": "concierge", "join_timeout_s": 50})
    assert keep(url="ws://127.0.0.1:3", echo_agent_url="http://127.0.0.1:4")
    kept = backend()
    assert (kept.cap, kept.enabled) == (7, False)
    assert kept.options == {"url": "ws://127.0.0.1:3", "agent_name": "concierge", "join_timeout_s": 50}


def test_a_backend_of_this_name_with_another_provider_is_left_alone() -> None:
    Backend.objects.create(name="livekit", provider="loopback")
    assert not keep()
    assert (backend().provider, backend().options) == ("loopback", {})
