"""A provider is loaded when it is first asked for; what cannot be found or loaded is one error with a sentence."""

import subprocess
import sys

import pytest

from sessions_app.providers.base import BackendConfig
from sessions_app.providers.exceptions import InvalidConfig, ProviderNotFound
from sessions_app.providers.loopback.provider import LoopbackProvider
from sessions_app.providers.registry import Registry

LOOPBACK = "sessions_app.providers.loopback.provider.LoopbackProvider"


def test_a_registered_name_gives_the_class_and_a_provider() -> None:
    registry = Registry({"loopback": LOOPBACK})
    assert registry.get("loopback") is LoopbackProvider
    assert registry.get("loopback") is LoopbackProvider
    provider = registry.create("loopback", BackendConfig(name="main", options={"sample_rate": 16_000}))
    assert isinstance(provider, LoopbackProvider)
    assert provider.capabilities.audio[0].sample_rate == 16_000


def test_the_providers_own_refusal_is_passed_on() -> None:
    with pytest.raises(InvalidConfig, match="delay_ms"):
        Registry({"loopback": LOOPBACK}).create("loopback", BackendConfig(name="main", options={"delay_ms": "soon"}))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ProviderNotFound, match="nothing is registered as 'acme'; there are livekit, loopback") as caught:
        Registry({"loopback": LOOPBACK, "livekit": "nowhere.Provider"}).get("acme")
    assert caught.value.code == "provider_not_found"
    with pytest.raises(ProviderNotFound, match="there are none"):
        Registry({}).get("acme")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("LoopbackProvider", "not of the form"),
        ("", "not of the form"),
        ("no_such_package.provider.AcmeProvider", "ModuleNotFoundError.*no_such_package"),
        ("tests.providers.broken_module.AcmeProvider", r"\(ValueError\)"),
        ("sessions_app.providers.loopback.provider.AcmeProvider", "has no 'AcmeProvider'"),
        ("sessions_app.providers.base.BackendConfig", "not a complete provider"),
        ("sessions_app.providers.base.Provider", "not a complete provider"),
        ("sessions_app.providers.loopback.options.SAMPLE_RATES", "not a complete provider"),
        (".relative.AcmeProvider", "could not be imported"),
    ],
)
def test_what_cannot_be_loaded_is_not_found_and_says_why(path: str, sentence: str) -> None:
    registry = Registry({"acme": path, "loopback": LOOPBACK})
    with pytest.raises(ProviderNotFound, match=sentence) as caught:
        registry.get("acme")
    assert "hush-hush" not in str(caught.value)
    assert registry.get("loopback") is LoopbackProvider


def test_names_are_told_without_loading_anything() -> None:
    assert Registry({"loopback": LOOPBACK, "acme": "no_such_package.Acme"}).names() == ("acme", "loopback")


def test_a_provider_is_imported_only_when_it_is_asked_for_and_django_never() -> None:
    code = f"""
import sys
from sessions_app.providers.base import BackendConfig
from sessions_app.providers.registry import Registry
registry = Registry({{"loopback": {LOOPBACK!r}}})
assert "sessions_app.providers.loopback.provider" not in sys.modules
registry.create("loopback", BackendConfig(name="main", options={{}}))
assert "sessions_app.providers.loopback.provider" in sys.modules
assert not {{"django", "channels", "celery", "psycopg"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
