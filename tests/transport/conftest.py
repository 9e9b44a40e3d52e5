from collections.abc import AsyncIterator

import pytest

from tests.calls import House, house


@pytest.fixture
async def home(committed_db: None) -> AsyncIterator[House]:
    async with house() as opened:
        yield opened
