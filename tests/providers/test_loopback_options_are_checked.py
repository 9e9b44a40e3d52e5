"""A wrong option is refused when the backend is made, with a sentence that names it."""

import pytest

from sessions_app.providers.base import BackendConfig
from sessions_app.providers.exceptions import InvalidConfig
from sessions_app.providers.loopback.options import LoopbackOptions
from sessions_app.providers.loopback.provider import LoopbackProvider


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delay_ms", -1),
        ("delay_ms", 10_001),
        ("delay_ms", "200"),
        ("delay_ms", True),
        ("delay_ms", 1.5),
        ("delay_ms", None),
        ("sample_rate", 8_000),
        ("sample_rate", "24000"),
        ("open_delay_ms", [1]),
        ("fail_open", -1),
        ("fail_open", "yes"),
        ("hang_open", 1),
        ("hang_after_ms", -5),
        ("die_after_ms", "soon"),
        ("pipeline_error_after_ms", {}),
        ("end_after_ms", 3_600_001),
        ("close_delay_ms", None),
        ("hang_close", "true"),
        ("fail_probe", 0.5),
        ("probe_delay_ms", -1),
    ],
)
def test_a_wrong_value_is_refused_by_the_options_name(name: str, value: object) -> None:
    with pytest.raises(InvalidConfig, match=rf"option '{name}' must be .+, not .+\."):
        LoopbackProvider(BackendConfig(name="main", options={name: value}))


def test_unknown_options_are_named_and_so_are_those_that_there_are() -> None:
    with pytest.raises(InvalidConfig, match=r"unknown option 'colour', 'volume'; there are .*delay_ms"):
        LoopbackProvider(BackendConfig(name="main", options={"volume": 11, "colour": "red", "delay_ms": 1}))


def test_a_value_that_might_be_secret_is_not_repeated() -> None:
    with pytest.raises(InvalidConfig) as caught:
        LoopbackProvider(BackendConfig(name="main", options={"delay_ms": "hush-hush"}))
    assert "hush-hush" not in f"{caught.value} {caught.value!r}"


def test_without_options_it_answers_after_200_ms_at_24_khz_and_behaves() -> None:
    options = LoopbackOptions.read({})
    assert (options.delay_ms, options.sample_rate) == (200, 24_000)
    assert not any((options.fail_open, options.hang_open, options.hang_close, options.fail_probe))
    assert options.die_after_ms is options.end_after_ms is options.hang_after_ms is options.pipeline_error_after_ms is None


def test_null_means_never_for_what_happens_after_a_time() -> None:
    assert LoopbackOptions.read({"die_after_ms": None, "end_after_ms": 0}).die_after_ms is None


def test_secrets_are_ignored() -> None:
    LoopbackProvider(BackendConfig(name="main", options={}, secrets={"key": "hush-hush"}))
