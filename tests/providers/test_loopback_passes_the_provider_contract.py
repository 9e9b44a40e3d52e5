"""The loopback backend is a provider like any other, also when it is slow."""

import pytest

from sessions_app.providers.base import BackendConfig
from sessions_app.providers.loopback.provider import LoopbackProvider
from tests.providers.contract import ProviderContract


class TestLoopback(ProviderContract):
    provider_class = LoopbackProvider

    @pytest.fixture
    def config(self) -> BackendConfig:
        return BackendConfig(name="main", options={})

    @pytest.fixture
    def unreachable_config(self) -> BackendConfig:
        return BackendConfig(name="main", options={"fail_open": True, "fail_probe": True}, secrets={"key": "not-needed"})


class TestSlowLoopback(TestLoopback):
    @pytest.fixture
    def config(self) -> BackendConfig:
        return BackendConfig(name="main", options={"open_delay_ms": 5, "close_delay_ms": 5, "probe_delay_ms": 5, "sample_rate": 16_000})
