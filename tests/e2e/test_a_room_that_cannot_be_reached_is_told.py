"""A browser that does not reach the media server: the page tries for half a minute, says so, and the session was never somebody's call."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.async_api import expect

from sessions_app.models import Backend, BackendAccess, Session
from sessions_app.runtime.database import in_thread
from tenants import services as tenant_services
from tenants.models import Tenant
from tests.e2e import browser as browsers
from tests.e2e.media import Media
from tests.e2e.rows import over, slots, states
from tests.e2e.server import Server
from tests.e2e.visitor import PASSWORD

pytestmark = pytest.mark.browser
GIVEN_UP_MS = 60_000


async def test_the_page_says_so_and_the_slot_is_free(server: Server, media: Media, new_tenant: Callable[..., Tenant]) -> None:
    def prepare() -> Tenant:
        tenant = new_tenant(max_concurrent_sessions=1)
        BackendAccess.objects.filter(tenant=tenant).update(backend=media.backend)
        options = {**media.backend.options, "public_url": "ws://127.0.0.1:1", "join_timeout_s": 120, "agent_timeout_s": 0}
        Backend.objects.filter(pk=media.backend.pk).update(options=options)
        tenant_services.add_member(tenant=tenant, user=User.objects.create_user("far", password=PASSWORD))
        return tenant

    tenant = await in_thread(prepare)
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, "far", "/talk/")
        talk = page.locator("#talk")
        await page.get_by_role("button", name="Start talking").click()
        await expect(page.get_by_role("status")).to_contain_text("Joining the call…")
        await expect(page.get_by_role("button", name="Cancel")).to_be_enabled()
        await expect(talk).to_have_attribute("data-state", "refused", timeout=GIVEN_UP_MS)
        await expect(page.get_by_role("status")).to_contain_text("The media server could not be reached.")
        session = await in_thread(Session.objects.get, tenant=tenant)
        assert (await in_thread(over, session.pk)).reason == "client_lost"
        assert "active" not in await in_thread(states, session.pk)
        assert await in_thread(slots, tenant) == 0

        # Cancelled in the middle of it, it is over at once.
        await page.get_by_role("button", name="Start talking").click()
        await expect(page.get_by_role("status")).to_contain_text("Joining the call…")
        await page.get_by_role("button", name="Cancel").click()
        await expect(talk).to_have_attribute("data-state", "over")
        last = await in_thread(Session.objects.filter(tenant=tenant).latest, "id")
        assert (await in_thread(over, last.pk)).reason == "completed"
