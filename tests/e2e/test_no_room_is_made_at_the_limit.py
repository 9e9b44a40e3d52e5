"""Whoever is refused or waits has no room, and no token for one: the media server never hears of them."""

import json
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from playwright.async_api import expect

from sessions_app.models import BackendAccess, Session, WebhookEvent
from sessions_app.runtime.database import in_thread
from tenants import services as tenant_services
from tenants.models import Tenant
from tests.e2e import browser as browsers
from tests.e2e.client import Call
from tests.e2e.media import Media
from tests.e2e.rows import slots
from tests.e2e.server import Server, wait_until
from tests.e2e.visitor import PASSWORD
from tests.e2e.wire import Wire

NewTenant = Callable[..., Tenant]
Dial = Callable[..., Call]


@pytest.fixture
def tenant_of(new_tenant: NewTenant, media: Media) -> NewTenant:
    """Make a tenant with this quota that may use rooms only."""

    def make(**quota: int) -> Tenant:
        tenant = new_tenant(**quota)
        BackendAccess.objects.filter(tenant=tenant).update(backend=media.backend)
        return tenant

    return make


def made_for(tenant: Tenant, media: Media) -> set[str]:
    """The users of this tenant whom the media server knows, or has told of."""
    known = [*(each.session_id for each in media.rooms()), *WebhookEvent.objects.values_list("session_id", flat=True)]
    rooms = {each for each in known if each is not None}
    return set(Session.objects.filter(tenant=tenant, pk__in=rooms).values_list("user", flat=True))


@pytest.mark.browser
async def test_a_page_that_is_refused_gets_no_token(server: Server, media: Media, tenant_of: NewTenant, dial: Dial) -> None:
    def prepare() -> Tenant:
        tenant = tenant_of(max_concurrent_sessions=1)
        tenant_services.add_member(tenant=tenant, user=User.objects.create_user("late", password=PASSWORD))
        dial(tenant, "early").start(transport="webrtc")
        return tenant

    tenant = await in_thread(prepare)
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, "late", "/talk/")
        wire = Wire(page)
        await page.get_by_role("button", name="Start talking").click()
        await expect(page.locator("#talk")).to_have_attribute("data-state", "refused")
        await expect(page.get_by_role("status")).to_contain_text("Your organisation has as many sessions as it may have at once")
    assert wire.kinds() == ["session.rejected"]
    assert "livekit" not in json.dumps(wire.told)
    assert await in_thread(slots, tenant) == 1
    assert await in_thread(made_for, tenant, media) == {"early"}


def test_who_waits_gets_a_room_with_the_slot_and_not_before(media: Media, tenant_of: NewTenant, dial: Dial) -> None:
    tenant = tenant_of(max_concurrent_sessions=1, max_queue_length=1)
    talking, waiting = dial(tenant, "talking"), dial(tenant, "waiting")
    talking.start(transport="webrtc")
    waiting.say({"type": "session.start", "transport": "webrtc"})
    queued = waiting.message("session.queued")
    assert "livekit" not in queued
    assert made_for(tenant, media) == {"talking"}
    talking.stop()
    started = waiting.message("session.started")
    assert started["livekit"]["room"] == f"voice-{queued['session_id']}"
    wait_until(lambda: [each.session_id for each in media.rooms()].count(Session.objects.get(user="waiting").pk) == 1)
    assert made_for(tenant, media) == {"talking", "waiting"}
    waiting.stop()
    wait_until(lambda: media.rooms() == [])
