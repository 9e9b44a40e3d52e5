"""livekit-server killed with -9 in mid-call and started again: the page is talking again by itself, in the same session and slot.

``SCREENSHOT_DIR`` keeps the pictures that are made on the way.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.async_api import expect

from sessions_app.models import BackendAccess, Session, Slot
from sessions_app.models import Room as RoomRecord
from sessions_app.runtime.database import in_thread
from tenants import services as tenant_services
from tenants.models import Tenant
from tests.e2e import browser as browsers
from tests.e2e.media import Media
from tests.e2e.rows import over, slots, states
from tests.e2e.server import Server, manage, wait_until
from tests.e2e.visitor import PASSWORD
from tests.e2e.wire import Wire

pytestmark = pytest.mark.browser
# The browser's own microphone beeps once a second.
AGENT_IS_HEARD = """() => new DOMMatrix(getComputedStyle(document.querySelector('[data-part="meter-theirs"]')).transform).a > 0.3"""
BACK_MS = 30_000  # much longer than it takes: how busy this machine is, is not what is tested


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("SCREENSHOT_DIR", tmp_path))


@pytest.fixture
def ann(new_tenant: Callable[..., Tenant], media: Media) -> Tenant:
    """The tenant of Ann, who may have one session at a time."""
    tenant = new_tenant(max_concurrent_sessions=1, grace_s=60)
    BackendAccess.objects.filter(tenant=tenant).update(backend=media.backend)
    tenant_services.add_member(tenant=tenant, user=User.objects.create_user("ann", password=PASSWORD))
    return tenant


async def test_the_page_talks_again_in_the_same_session_and_slot(server: Server, media: Media, ann: Tenant, pictures: Path) -> None:
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, "ann", "/talk/")
        talk = page.locator("#talk")
        wire = Wire(page)
        await page.get_by_role("button", name="Start talking").click()
        await expect(talk).to_have_attribute("data-state", "live")
        await page.wait_for_function(AGENT_IS_HEARD)
        session = await in_thread(Session.objects.get, tenant=ann)
        slot = await in_thread(Slot.objects.get, session=session)

        await in_thread(media.livekit.kill)
        killed = time.monotonic()
        await expect(talk).to_have_attribute("data-state", "reconnecting")
        await expect(page.get_by_role("status")).to_contain_text("Connection lost, reconnecting…")
        for width, size in {"desk": browsers.DESKTOP, "phone": browsers.PHONE}.items():
            await page.set_viewport_size({"width": size["width"], "height": size["height"]})
            await page.screenshot(path=pictures / f"room-lost-{width}.png", full_page=True)
            assert not await browsers.scrolls_sideways(page)
        await in_thread(media.livekit.start)
        await expect(talk).to_have_attribute("data-state", "live", timeout=BACK_MS)
        await page.wait_for_function(AGENT_IS_HEARD, timeout=BACK_MS)
        print(f"heard again {time.monotonic() - killed:.1f} s after the kill")

        again = await in_thread(Slot.objects.get, session=session)
        assert (again.pk, again.backend_id) == (slot.pk, slot.backend_id)
        assert await in_thread(slots, ann) == await in_thread(Session.objects.filter(tenant=ann).count) == 1
        assert {each["session_id"] for each in wire.told} == {str(session.pk)}
        assert wire.kinds()[:2] == ["session.started", "session.resumed"]
        assert wire.told[0]["livekit"]["room"] == wire.told[1]["livekit"]["room"]
        assert (await in_thread(RoomRecord.objects.get, session=session)).generation > 1

        await page.get_by_role("button", name="Hang up").click()
        await expect(talk).to_have_attribute("data-state", "over")
    assert (await in_thread(over, session.pk)).reason == "completed"
    assert (await in_thread(states, session.pk))[-1] == "ended"
    await in_thread(wait_until, lambda: media.rooms() == [], 10.0, "the end of the room")
    assert "clean" in await in_thread(manage, "verify_capacity", "--history")
