"""LiveKit is a provider like any other, against a real livekit-server."""

import pytest

from sessions_app.providers.base import BackendConfig
from sessions_app.providers.livekit.provider import LiveKitProvider
from tests.livekit_server import config_of
from tests.platform.instance import free_port
from tests.providers.contract import ProviderContract
from voiceplatform.embedded.livekit import LiveKit, new_keys


class TestLiveKit(ProviderContract):
    provider_class = LiveKitProvider

    @pytest.fixture
    def config(self, livekit: LiveKit) -> BackendConfig:
        return config_of(livekit)

    @pytest.fixture
    def unreachable_config(self) -> BackendConfig:
        ((key, secret),) = new_keys().items()
        return BackendConfig(
            name="livekit", options={"url": f"ws://127.0.0.1:{free_port()}"}, secrets={"api_key": key, "api_secret": secret}
        )
