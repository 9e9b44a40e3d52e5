"""Every page at two widths: none scrolls sideways, and no script complains.

``SCREENSHOT_DIR`` keeps the pictures that are made on the way.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.async_api import Page, expect

from sessions_app.models import Session
from tenants import services as tenant_services
from tenants.models import Tenant
from tests.e2e import browser as browsers
from tests.e2e.client import Call
from tests.e2e.rows import over, record
from tests.e2e.server import Server
from tests.e2e.visitor import PASSWORD

pytestmark = pytest.mark.browser


@pytest.fixture
def history(dial: Callable[..., Call], new_tenant: Callable[..., Tenant]) -> tuple[Tenant, Session, Session]:
    """A tenant with an ended, a failed and a refused session and one that lives; staff who is a member of it. Returns
    the ended one and the one that lives."""
    tenant = new_tenant(max_concurrent_sessions=1, grace_s=2)
    staff = User.objects.create_superuser(username=f"ops-{tenant.pk}", password=PASSWORD)
    tenant_services.add_member(tenant=tenant, user=staff)
    broken = new_tenant(backend={"options": {"fail_open": True}})
    dial(broken, "caller-with-a-rather-long-name@customer-of-ours.example").refused()
    call = dial(tenant, "customer-4711")
    ended = call.start(metadata={"shop": "14", "language": "en"})
    call.exchange([bytes(960)] * 50)
    call.drop()
    over(ended["session_id"])
    live = dial(tenant, "customer-4712").start()
    dial(tenant, "customer-4713").refused()
    return tenant, record(ended["session_id"]), record(live["session_id"])


@pytest.mark.parametrize("width", ["desk", "phone"])
async def test_no_page_scrolls_sideways(server: Server, history: tuple[Tenant, Session, Session], width: str, tmp_path: Path) -> None:
    tenant, session, live = history
    pictures = Path(os.environ.get("SCREENSHOT_DIR", tmp_path))
    size = browsers.DESKTOP if width == "desk" else browsers.PHONE
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, f"ops-{tenant.pk}", "/talk/", size=size)
        problems = browsers.collect_problems(page)
        await _look(page, pictures / f"idle-{width}.png")
        await page.get_by_role("button", name="Start talking").click()
        await expect(page.locator("#talk")).to_have_attribute("data-state", "refused")
        await page.get_by_text("Details for support").click()
        await _look(page, pictures / f"refused-{width}.png")
        for name, path in {
            "sessions": "/ops/sessions/",
            "session": f"/ops/sessions/{session.pk}/",
            "live": f"/ops/sessions/{live.pk}/",
            "health": "/ops/health/",
            "admin": "/admin/",
            "tenant": f"/admin/tenants/tenant/{tenant.pk}/change/",
            "backends": "/admin/sessions_app/backend/",
            "new-backend": "/admin/sessions_app/backend/add/?provider=livekit",
            "webhooks": "/admin/sessions_app/webhookevent/",
            "own-sessions": "/sessions/",
            "own-session": f"/sessions/{session.pk}/",
        }.items():
            await page.goto(server.origin + path)
            await _look(page, pictures / f"{name}-{width}.png")
        await page.context.clear_cookies()
        await page.goto(f"{server.origin}/talk/")
        await _look(page, pictures / f"login-{width}.png")
        assert problems == []


async def _look(page: Page, picture: Path) -> None:
    await page.screenshot(path=picture, full_page=True)
    assert not await browsers.scrolls_sideways(page), page.url
