"""The two clients that are printed in the documentation, as they stand there, through a killed server and to their end."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessions_app.models import Session
from sessions_app.runtime.database import in_thread
from tenants.models import Tenant
from tests.e2e import browser as browsers
from tests.e2e.rows import new_token, states
from tests.e2e.server import Server, manage
from tests.platform.instance import PROJECT

pytestmark = pytest.mark.browser
FRAME = bytes(960)
# Live once, it waits to be lost; live again, it sends audio, hears it, and stops.
IN_A_PAGE = """async ([url, token]) => {
  %s
  window.kinds = [];
  let socket = null;
  window.ended = talk(url, token, {
    live: (newest, message) => {
      socket = newest;
      window.kinds.push(message.type);
      if (message.type === "session.resumed") socket.send(new ArrayBuffer(960));
    },
    audio: (frame) => {
      window.kinds.push(frame.byteLength);
      socket.send('{"type": "session.stop"}');
    },
  });
}"""


def printed(language: str) -> str:
    """Return the documentation's only block in this language."""
    text = (Path(PROJECT) / "docs" / "protocol.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block)


async def test_they_resume_their_sessions_and_stop_when_these_are_over(server: Server, new_tenant: Callable[..., Tenant]) -> None:
    tenant = await in_thread(new_tenant, grace_s=60, max_concurrent_sessions=2)
    tokens = [await in_thread(new_token, tenant, user) for user in ("python", "javascript")]
    names: dict[str, Any] = {}
    exec(compile(printed("python"), "docs/protocol.md", "exec"), names)
    kinds: list[str | int] = []
    sockets: list[Any] = []
    begun = asyncio.Event()
    sent: list[asyncio.Task[None]] = []

    def live(socket: Any, message: dict[str, Any]) -> None:
        sockets.append(socket)
        kinds.append(message["type"])
        begun.set()
        if message["type"] == "session.resumed":
            sent.append(asyncio.ensure_future(socket.send(FRAME)))

    def audio(frame: bytes) -> None:
        kinds.append(len(frame))
        sent.append(asyncio.ensure_future(sockets[-1].send(json.dumps({"type": "session.stop"}))))

    async with browsers.open_browser() as browser:
        page = await browser.new_page()
        page.set_default_timeout(browsers.SOON_MS)
        await page.goto(f"{server.origin}/healthz")
        call = asyncio.ensure_future(names["talk"](server.socket_url, tokens[0], live, audio))
        await page.evaluate(IN_A_PAGE % printed("js"), [server.socket_url, tokens[1]])
        await page.wait_for_function("window.kinds.length === 1")
        await asyncio.wait_for(begun.wait(), browsers.SOON_MS / 1000)
        server.kill()
        await in_thread(server.start)
        async with asyncio.timeout(60):
            ends = [await call, [(end := await page.evaluate("window.ended"))["code"], end["last"]]]
        told = [kinds, await page.evaluate("window.kinds")]
    await asyncio.gather(*sent)
    assert told == [["session.started", "session.resumed", 960]] * 2
    assert [(code, last["type"], last["reason"]) for code, last in ends] == [(1000, "session.ended", "completed")] * 2
    sessions = await in_thread(list, Session.objects.filter(tenant=tenant))
    assert len(sessions) == 2
    for session in sessions:
        assert (await in_thread(states, session.pk))[-2:] == ["active", "ended"]
    assert "clean" in await in_thread(manage, "verify_capacity")
