"""What an operator sets wrongly is named in a sentence, without its value where that may be secret."""

import pytest

from sessions_app.providers.base import BackendConfig
from sessions_app.providers.exceptions import InvalidConfig
from sessions_app.providers.livekit.options import Credentials, LiveKitOptions
from sessions_app.providers.livekit.provider import LiveKitProvider

URL = {"url": "wss://media.example"}
SECRETS = {"api_key": "APIkey", "api_secret": "hush-hush-hush-hush-hush-hush-hush"}


@pytest.mark.parametrize(
    ("url", "api_url", "client_url"),
    [
        ("wss://media.example", "https://media.example", "wss://media.example"),
        ("https://media.example/", "https://media.example", "wss://media.example"),
        ("ws://127.0.0.1:7880", "http://127.0.0.1:7880", "ws://127.0.0.1:7880"),
        ("http://127.0.0.1:7880/lk", "http://127.0.0.1:7880/lk", "ws://127.0.0.1:7880/lk"),
    ],
)
def test_calls_go_over_http_and_clients_over_websocket(url: str, api_url: str, client_url: str) -> None:
    options = LiveKitOptions.read({"url": url})
    assert (options.api_url, options.client_url, options.agent_url) == (api_url, client_url, client_url)


def test_clients_may_be_given_another_address() -> None:
    options = LiveKitOptions.read({"url": "http://livekit:7880", "public_url": "https://media.example"})
    assert (options.api_url, options.client_url, options.agent_url) == ("http://livekit:7880", "wss://media.example", "ws://livekit:7880")


def test_the_defaults_are_those_that_are_documented() -> None:
    policy = LiveKitOptions.read(URL).policy
    assert (policy.join_timeout_s, policy.agent_timeout_s, policy.on_agent_absent) == (30, 10, "retry")
    assert LiveKitOptions.read({**URL, "agent_timeout_s": 0}).policy.agent_timeout_s is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "'url'"),
        ({"url": ""}, "'url'"),
        ({"url": "media.example"}, "'url'"),
        ({"url": "ftp://media.example"}, "'url'"),
        ({"url": "wss://"}, "'url'"),
        ({"url": "wss://user:hush-hush@media.example"}, "'url'"),
        ({"url": "wss://media.example?access_token=hush-hush"}, "'url'"),
        ({"url": "wss://media.example:port"}, "'url'"),
        ({"url": 7}, "'url'"),
        ({**URL, "public_url": "media.example"}, "'public_url'"),
        ({**URL, "echo_agent_url": "ws://127.0.0.1"}, "'echo_agent_url'"),
        ({**URL, "agent_name": ["a"]}, "'agent_name'"),
        ({**URL, "agent_name": "a" * 501}, "'agent_name'"),
        ({**URL, "agent_name": "a\nb"}, "'agent_name'"),
        ({**URL, "join_timeout_s": 0}, "'join_timeout_s'"),
        ({**URL, "agent_timeout_s": -1}, "'agent_timeout_s'"),
        ({**URL, "agent_timeout_s": "10"}, "'agent_timeout_s'"),
        ({**URL, "on_agent_absent": "panic"}, "'on_agent_absent'"),
        ({**URL, "on_agent_absent": None}, "'on_agent_absent'"),
        ({**URL, "request_timeout_s": 31}, "'request_timeout_s'"),
        ({**URL, "departure_timeout_s": 0}, "'departure_timeout_s'"),
        ({**URL, "api_secret": "hush-hush"}, "'api_secret'"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        LiveKitProvider(BackendConfig("livekit", options, SECRETS))
    assert named in str(refused.value)
    assert "hush-hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("secrets", "named"),
    [
        ({}, "'api_key'"),
        ({"api_key": "APIkey"}, "'api_secret'"),
        ({"api_secret": "hush-hush"}, "'api_key'"),
        ({"api_key": " ", "api_secret": "hush-hush"}, "'api_key'"),
        ({**SECRETS, "previous_api_key": "APIold"}, "'previous_api_secret'"),
        ({**SECRETS, "api_secret": "hush-hush"}, "'api_secret' must have 32 characters or more"),
        ({**SECRETS, "previous_api_key": "APIold", "previous_api_secret": "hush"}, "'previous_api_secret' must have"),
        ({**SECRETS, "api_token": "hush-hush"}, "'api_token'"),
    ],
)
def test_a_wrong_secret_is_named_and_not_shown(secrets: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        LiveKitProvider(BackendConfig("livekit", URL, secrets))
    assert named in str(refused.value)
    assert "hush-hush" not in f"{refused.value} {refused.value!r}"


def test_calls_are_signed_with_the_newest_key_and_webhooks_may_be_with_either() -> None:
    credentials = Credentials.read({**SECRETS, "previous_api_key": "APIold", "previous_api_secret": "the-one-before" * 3})
    assert (credentials.key, credentials.secret) == (SECRETS["api_key"], SECRETS["api_secret"])
    assert credentials.pairs == {"APIkey": SECRETS["api_secret"], "APIold": "the-one-before" * 3}
    assert not any(secret in repr(credentials) for secret in credentials.pairs.values())
