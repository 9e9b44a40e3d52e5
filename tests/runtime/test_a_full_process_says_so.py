"""A process, or the way to its ledger, that has more to do than it may take on refuses with ``overloaded``, and serves again later."""

from typing import Any

import pytest

from sessions_app.domain.states import MEANINGS, Reason
from sessions_app.runtime import batcher, sessions
from tests.calls import Closed, House, make_backend, make_tenant, slots


async def overloaded(client: Any) -> None:
    refused = await client.hears("session.rejected")
    assert (refused["code"], refused["message"]) == ("overloaded", MEANINGS[Reason.OVERLOADED].message)
    assert refused["retry_after_s"] == 2
    assert await client.hears() == Closed(4013)


async def test_with_as_many_sessions_as_it_may_hold(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 1)
    await make_backend()
    tenant = await make_tenant()
    first, token = home.caller(tenant), home.token(tenant, "bob")
    await first.starts()
    second = home.connect(token)
    second.says({"type": "session.start"})
    await overloaded(second)
    assert await slots() == 1
    first.says({"type": "session.stop"})
    await first.hears(Closed)
    # It was never admitted, so its token is still good.
    await home.connect(token).starts()


async def test_with_as_many_waiting_for_an_answer_as_may_wait(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "MAX_WAITING", 0)
    await make_backend()
    client = home.caller(await make_tenant())
    client.says({"type": "session.start"})
    await overloaded(client)
    assert await slots() == 0
