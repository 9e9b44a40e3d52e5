from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.calls import House, house, make_backend, make_tenant


@pytest.fixture
async def home(committed_db: None) -> AsyncIterator[House]:
    async with house() as opened:
        yield opened


@pytest.fixture
async def tenant_with_queue(home: House) -> Any:
    """One session at once, ten may wait; its backend answers at once."""
    await make_backend(options={"delay_ms": 0})
    return await make_tenant(max_concurrent_sessions=1, max_queue_length=10, grace_s=5)
