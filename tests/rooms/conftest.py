from collections.abc import AsyncIterator

import pytest

from tests.livekit_server import NewLiveKit
from tests.rooms.scene import Scene, scene


@pytest.fixture
async def stage(committed_db: None, new_livekit: NewLiveKit) -> AsyncIterator[Scene]:
    async with scene(new_livekit) as opened:
        yield opened
