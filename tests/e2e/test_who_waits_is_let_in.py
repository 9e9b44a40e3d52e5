"""The queue end to end: a bare client and the talk page see their place go down and are let in; who may not wait is told why.

``SCREENSHOT_DIR`` keeps the pictures that are made on the way.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.async_api import expect

from sessions_app.models import Session
from sessions_app.runtime.database import in_thread
from tenants import services as tenant_services
from tenants.models import Tenant
from tests.e2e import browser as browsers
from tests.e2e.client import Call
from tests.e2e.rows import over, slots, states
from tests.e2e.server import Server, manage
from tests.e2e.visitor import PASSWORD

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]
LET_IN_MS = 20_000


def wait(call: Call, position: int) -> str:
    """Ask for a session, be told this place, and return the session's id."""
    call.say({"type": "session.start"})
    queued = call.message("session.queued")
    assert queued["position"] == position
    session_id: str = queued["session_id"]
    return session_id


def test_each_end_lets_the_next_one_in(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(max_concurrent_sessions=1, max_queue_length=2)
    talking, first, second = (dial(tenant, name) for name in ("talking", "first", "second"))
    talking.start()
    first_id = wait(first, 1)
    wait(second, 2)
    refused, code = dial(tenant, "late").refused()
    assert (refused["code"], code) == ("queue_full", 4429)
    talking.stop()
    assert first.message("session.started")["session_id"] == first_id
    assert second.message("session.queued")["position"] == 1
    assert slots(tenant) == 1
    first.stop()
    second.message("session.started")
    second.stop()
    assert states(first_id) == ["queued", "starting", "active", "ended"]
    assert "clean" in manage("verify_capacity", "--history")


def test_a_place_is_kept_for_a_client_that_lost_its_connection(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(max_concurrent_sessions=1, max_queue_length=5, grace_s=30)
    talking, first, second = (dial(tenant, name) for name in ("talking", "first", "second"))
    talking.start()
    first.say({"type": "session.start"})
    queued = first.message("session.queued")
    wait(second, 2)
    first.drop()
    back = dial(token=queued["resume_token"])
    assert back.message("session.queued")["position"] == 1
    talking.stop()
    assert back.message("session.started")["session_id"] == queued["session_id"]


def test_who_waited_as_long_as_the_quota_lets_it_is_told_so(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(max_concurrent_sessions=0, max_queue_length=1, max_queue_wait_s=1)
    call = dial(tenant)
    session_id = wait(call, 1)
    assert call.message("session.rejected")["code"] == "queue_timeout"
    assert call.closed() == 4408
    assert (over(session_id).state, over(session_id).reason) == ("expired", "queue_timeout")


def test_who_leaves_the_queue_abandons_its_place(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(max_concurrent_sessions=0, max_queue_length=1, grace_s=0)
    call = dial(tenant)
    session_id = wait(call, 1)
    call.drop()
    assert (over(session_id).state, over(session_id).reason) == ("abandoned", "client_lost")


def test_more_attempts_in_a_minute_than_the_rate_allows_are_refused(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(sessions_per_minute=2)
    for name in ("one", "two"):
        dial(tenant, name).start()
    refused, code = dial(tenant, "three").refused()
    assert (refused["code"], code) == ("rate_limit_exceeded", 4429)
    assert 1 <= refused["retry_after_s"] <= 30


def _talk_and_stop(call: Call) -> None:
    call.message("session.started")
    call.stop()


@pytest.mark.browser
async def test_the_talk_page_shows_the_place_and_goes_on_by_itself(
    server: Server, new_tenant: NewTenant, dial: Dial, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("SCREENSHOT_DIR", tmp_path))

    def prepare() -> tuple[Tenant, Call, Call]:
        tenant = new_tenant(max_concurrent_sessions=1, max_queue_length=5)
        tenant_services.add_member(tenant=tenant, user=User.objects.create_user("mia", password=PASSWORD))
        talking, ahead = dial(tenant, "talking"), dial(tenant, "ahead")
        talking.start()
        wait(ahead, 1)
        return tenant, talking, ahead

    tenant, talking, ahead = await in_thread(prepare)
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, "mia", "/talk/")
        await page.get_by_role("button", name="Start talking").click()
        status, talk = page.get_by_role("status"), page.locator("#talk")
        await expect(talk).to_have_attribute("data-state", "queued")
        await expect(status).to_contain_text("number 2")
        for width, size in {"desk": browsers.DESKTOP, "phone": browsers.PHONE}.items():
            await page.set_viewport_size({"width": size["width"], "height": size["height"]})
            await page.screenshot(path=pictures / f"queued-{width}.png", full_page=True)
            assert not await browsers.scrolls_sideways(page)
        await in_thread(talking.stop)
        await expect(status).to_contain_text("next", timeout=LET_IN_MS)
        await in_thread(_talk_and_stop, ahead)
        await expect(talk).to_have_attribute("data-state", "live", timeout=LET_IN_MS)
        await page.get_by_role("button", name="Hang up").click()
        await expect(talk).to_have_attribute("data-state", "over", timeout=LET_IN_MS)
        session = await in_thread(Session.objects.filter(tenant=tenant).latest, "id")
        assert await in_thread(states, session.pk) == ["queued", "starting", "active", "ended"]
