"""One tree of errors: a sentence, a reason of the client protocol, and whether to try again."""

import pickle

import pytest

from sessions_app.providers import exceptions
from sessions_app.providers.exceptions import InvalidConfig, ProviderError

CODES = {
    "ConnectionFailed": ("connection_failed", True),
    "OpenTimeout": ("timeout", True),
    "InvalidConfig": ("invalid_config", False),
    "ProviderNotFound": ("provider_not_found", False),
    "ProviderFailed": ("provider_failed", True),
    "PipelineError": ("pipeline_error", False),
    "AgentAbsent": ("agent_absent", True),
}


@pytest.mark.parametrize("name", CODES)
def test_each_error_has_its_reason_and_a_sentence(name: str) -> None:
    error = getattr(exceptions, name)()
    assert isinstance(error, ProviderError)
    assert (error.code, error.retryable) == CODES[name]
    assert str(error) == error.message
    assert error.message.endswith(".")


def test_a_detail_follows_the_sentence() -> None:
    assert str(InvalidConfig("option 'url' is missing.")) == "The backend's settings are wrong: option 'url' is missing."


def test_an_error_survives_being_sent_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(InvalidConfig("option 'url' is missing.")))
    assert isinstance(copy, InvalidConfig)
    assert copy.detail == "option 'url' is missing."
