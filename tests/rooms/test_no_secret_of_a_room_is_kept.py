"""After calls that end well and badly, neither a row nor a log line holds a token, a key's secret or the server's turnPassword."""

import asyncio
import json
import logging
from typing import Any

import psycopg
import pytest

from tests.livekit.people import inside
from tests.rooms.scene import Scene, all_processed, closed, state_is
from tests.rooms.signalling import knock


async def test_no_row_and_no_line_holds_one(
    stage: Scene, sql: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger="sessions_app")
    client, started = await stage.starts()
    session_id, token = started["session_id"], started["livekit"]["token"]
    _, refresh = await knock(stage.server.url, token)
    async with inside(started["livekit"]):
        await state_is(session_id, "active")
        stage.server.kill()  # calls fail, and say so
        await asyncio.to_thread(stage.server.start)
        again = (await client.hears("session.resumed"))["livekit"]["token"]
        client.says({"type": "session.stop"})
        await client.hears("session.ended")
    await closed(session_id)
    await all_processed()
    turn = {json.loads(body)["room"]["turnPassword"] for body, _ in stage.relay.seen if b"turnPassword" in body}
    assert turn
    secrets = {token, again, refresh, stage.server.secret, *turn, *(authorization for _, authorization in stage.relay.seen)}
    tables = sql.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    rows = "\n".join(str(row) for (table,) in tables for row in sql.execute(f"SELECT row_to_json(t)::text FROM {table} AS t").fetchall())
    printed = capfd.readouterr()
    said = caplog.text + printed.out + printed.err
    assert session_id in rows
    assert "room made again" in said
    for secret in secrets:
        # A token's signature alone gives it away too.
        piece = secret.rpartition(".")[2]
        assert piece
        assert piece not in rows
        assert piece not in said
