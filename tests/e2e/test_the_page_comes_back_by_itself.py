"""The talk page and a server that goes away: it comes back by itself, and says plainly what has happened when it cannot.

``SCREENSHOT_DIR`` keeps the pictures that are made on the way.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.async_api import Page, expect

from sessions_app.models import Session
from sessions_app.runtime.database import in_thread
from tenants import services as tenant_services
from tenants.models import Tenant
from tests.e2e import browser as browsers
from tests.e2e.client import Call
from tests.e2e.rows import nobody_else_is_up, over, record, slots, states
from tests.e2e.server import Server, manage
from tests.e2e.visitor import PASSWORD
from tests.e2e.wire import Wire

pytestmark = pytest.mark.browser
FRAME = bytes(960)
# The browser's own microphone beeps once a second.
AGENT_IS_HEARD = """() => new DOMMatrix(getComputedStyle(document.querySelector('[data-part="meter-theirs"]')).transform).a > 0.3"""
BACK_MS = 45_000


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("SCREENSHOT_DIR", tmp_path))


@pytest.fixture
def member(new_tenant: Callable[..., Tenant]) -> Callable[[str], Tenant]:
    """Make a user of a tenant that may have one session, with a long grace: how soon a server starts again is not what is tested."""

    def make(name: str) -> Tenant:
        tenant = new_tenant(max_concurrent_sessions=1, grace_s=60)
        tenant_services.add_member(tenant=tenant, user=User.objects.create_user(name, password=PASSWORD))
        return tenant

    return make


async def _press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name).click()


async def _is(page: Page, state: str, words: str, *, within_ms: int = 15_000) -> None:
    await expect(page.locator("#talk")).to_have_attribute("data-state", state, timeout=within_ms)
    await expect(page.get_by_role("status")).to_contain_text(words)


async def _look(page: Page, pictures: Path, name: str) -> None:
    for width, size in {"desk": browsers.DESKTOP, "phone": browsers.PHONE}.items():
        await page.set_viewport_size({"width": size["width"], "height": size["height"]})
        await page.screenshot(path=pictures / f"{name}-{width}.png", full_page=True)
        assert not await browsers.scrolls_sideways(page)


async def test_after_a_killed_server_the_call_goes_on_until_a_newer_connection_takes_it(
    server: Server, member: Callable[[str], Tenant], dial: Callable[..., Call], pictures: Path
) -> None:
    tenant = await in_thread(member, "ann")
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, "ann", "/talk/")
        wire = Wire(page)
        await _press(page, "Start talking")
        await _is(page, "live", "You are connected")
        await page.wait_for_function(AGENT_IS_HEARD)
        session = await in_thread(Session.objects.get, tenant=tenant)

        server.kill()
        await _is(page, "reconnecting", "Connection lost, reconnecting… (")
        await expect(page.locator('[data-part="state"]')).to_have_text("reconnecting")
        await expect(page.get_by_role("status")).to_contain_text("(2 s)")
        await _look(page, pictures, "reconnecting")
        await in_thread(server.start)
        await _is(page, "live", "You are connected", within_ms=BACK_MS)
        await expect(page.locator('[data-part="hints"]')).to_contain_text("Back after ")
        await page.get_by_text("Details for support").click()
        await expect(page.locator('[data-fact="losses"]')).to_contain_text("once, ")
        await _look(page, pictures, "back")
        await page.wait_for_function(AGENT_IS_HEARD)
        await expect(page.locator('[data-part="round-trip"]')).to_contain_text("ms")
        assert wire.kinds() == ["session.started", "session.resumed"]
        assert wire.told[0]["session_id"] == wire.told[1]["session_id"] == str(session.pk)
        assert await in_thread(Session.objects.filter(tenant=tenant).count) == 1
        assert await in_thread(slots, tenant) == 1
        assert (await in_thread(record, session.pk)).state == "active"
        assert "clean" in await in_thread(manage, "verify_capacity")

        elsewhere: Call = await in_thread(dial, token=wire.told[1]["resume_token"])
        await in_thread(elsewhere.message, "session.resumed")
        await _is(page, "over", "This call goes on somewhere else")
        opened = wire.opened
        await in_thread(elsewhere.exchange, [FRAME] * 50)
        await in_thread(elsewhere.stop)
        assert wire.opened == opened, "the page does not fight for it"
        assert "ended" not in (await in_thread(states, session.pk))[:-1]


async def test_a_server_that_stops_says_so_and_hanging_up_ends_the_trying(server: Server, member: Callable[[str], Tenant]) -> None:
    tenant = await in_thread(member, "bob")
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, "bob", "/talk/")
        wire = Wire(page)
        await _press(page, "Start talking")
        await _is(page, "live", "You are connected")
        first = await in_thread(Session.objects.get, tenant=tenant)
        await in_thread(nobody_else_is_up)
        await in_thread(server.stop)
        await _is(page, "refused", "The service went down for maintenance.")
        assert (await in_thread(over, first.pk)).reason == "drained"
        assert wire.opened == 1
        await _press(page, "Start talking")
        await _is(page, "refused", "The server could not be reached.")

        await in_thread(server.start)
        await _press(page, "Start talking")
        await _is(page, "live", "You are connected")
        server.kill()
        await _is(page, "reconnecting", "Connection lost, reconnecting…")
        await _press(page, "Hang up")
        await _is(page, "over", "You hung up while the connection was lost.")
        await expect(page.get_by_role("button", name="Start talking")).to_be_enabled()
    await in_thread(server.start)
