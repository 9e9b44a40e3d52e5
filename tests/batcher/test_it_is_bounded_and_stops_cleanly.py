import asyncio
import threading
from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.runtime import batcher as module
from sessions_app.runtime.batcher import Batcher
from sessions_app.runtime.database import in_thread
from sessions_app.services.exceptions import Overloaded, Unavailable
from tests.world import admit, make_backend, make_tenant


async def test_beyond_its_bound_it_answers_overloaded_at_once_but_takes_ends(
    batcher: Batcher, sql: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    live = await batcher.submit(admit(tenant))
    with sql.transaction():
        sql.execute("LOCK TABLE sessions_app_capacity IN ACCESS EXCLUSIVE MODE")
        futures = [batcher.ask(admit(tenant)) for _ in range(20)]
        refused = [each for each in futures if each.done()]
        assert len(refused) >= 20 - 3 - 3  # what the first batch took away, and what waits
        assert all(isinstance(each.exception(), Overloaded) for each in refused)
        end = batcher.ask(End(live.session_id, Reason.COMPLETED))
        assert not end.done()
    assert await asyncio.wrap_future(end) is True


async def test_stop_writes_what_waits_and_refuses_what_comes_after(batcher: Batcher) -> None:
    await in_thread(make_backend)
    tenant = await in_thread(make_tenant)
    live = await batcher.submit(admit(tenant))
    end = batcher.ask(End(live.session_id, Reason.DRAINED))
    await asyncio.to_thread(batcher.stop)
    assert end.result(timeout=0) is True
    assert not batcher.connected
    for operation in (admit(tenant), End(live.session_id, Reason.DRAINED)):
        with pytest.raises(Unavailable):
            await batcher.submit(operation)
    assert "batcher" not in {each.name for each in threading.enumerate()}
