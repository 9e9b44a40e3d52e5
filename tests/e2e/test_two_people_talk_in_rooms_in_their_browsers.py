"""WebRTC as people do it: two browsers, each with a voice of its own, talk to the echo agent in rooms of a real LiveKit server.

``SCREENSHOT_DIR`` keeps the pictures that are made on the way.
"""

import asyncio
import functools
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.async_api import Page, expect

from sessions_app.models import BackendAccess, Session, WebhookEvent
from sessions_app.models import Room as RoomRecord
from sessions_app.runtime.database import in_thread
from tenants import services as tenant_services
from tenants.models import Tenant
from tests.e2e import browser as browsers
from tests.e2e import sound
from tests.e2e.media import Media
from tests.e2e.rows import over, slots, states
from tests.e2e.server import Server, manage, wait_until
from tests.e2e.visitor import PASSWORD

pytestmark = pytest.mark.browser
NAMES = ("ann", "ben")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("SCREENSHOT_DIR", tmp_path))


@pytest.fixture
def tenant(new_tenant: Callable[..., Tenant], media: Media) -> Tenant:
    """Of two people, who may use both backends; and staff."""
    tenant = new_tenant(slug="demo")
    User.objects.create_superuser("ops", password=PASSWORD)
    BackendAccess.objects.create(tenant=tenant, backend=media.backend)
    for name in NAMES:
        tenant_services.add_member(tenant=tenant, user=User.objects.create_user(name, password=PASSWORD))
    return tenant


async def _begin(page: Page) -> None:
    await page.get_by_label("By which voice service").select_option(label="livekit (WebRTC)")
    await page.get_by_role("button", name="Start talking").click()
    await expect(page.locator("#talk")).to_have_attribute("data-state", "live")
    await expect(page.get_by_role("status")).to_contain_text("Say something")


async def _until_spoken(page: Page) -> None:
    """Wait until the microphone's file has been played, and its echo too."""
    milliseconds = (sound.LEAD_S + sound.SPEECH_S + 2) * 1000
    await page.wait_for_function("(ms) => window.ear.micAt !== null && performance.now() - window.ear.micAt > ms", arg=milliseconds)


def _joined_by_webhook(session: Session) -> bool:
    return WebhookEvent.objects.filter(session_id=session.pk, name="participant_joined", processed_at__isnull=False).exists()


async def _look_at_history(page: Page, server: Server, session: Session, pictures: Path) -> None:
    """Its page tells staff who came and went."""
    browser = page.context.browser
    assert browser is not None
    history = await browsers.sign_in(browser, server.origin, "ops", f"/ops/sessions/{session.pk}/")
    room = history.get_by_label("Room", exact=True)
    for words in ("The room was made.", "The user joined.", "The agent joined."):
        await expect(room).to_contain_text(words)
    for width, size in {"desk": browsers.DESKTOP, "phone": browsers.PHONE}.items():
        await history.set_viewport_size({"width": size["width"], "height": size["height"]})
        await history.screenshot(path=pictures / f"room-{width}.png", full_page=True)
        assert not await browsers.scrolls_sideways(history)


async def test_each_hears_their_own_voice_and_hanging_up_leaves_nothing_behind(
    server: Server, media: Media, tenant: Tenant, tmp_path: Path, pictures: Path
) -> None:
    voices = [sound.speech(seed) for seed in range(len(NAMES))]
    async with AsyncExitStack() as stack:
        pages = []
        for name, voice in zip(NAMES, voices, strict=True):
            sound.write_wav(tmp_path / f"{name}.wav", voice)
            browser = await stack.enter_async_context(browsers.open_browser(tmp_path / f"{name}.wav"))
            pages.append(await browsers.sign_in(browser, server.origin, name, "/talk/?raw=1"))
        problems = [browsers.collect_problems(page) for page in pages]
        await asyncio.gather(*(_begin(page) for page in pages))

        sessions = await in_thread(lambda: [Session.objects.get(tenant=tenant, user=name) for name in NAMES])
        for session in sessions:
            await in_thread(wait_until, functools.partial(_joined_by_webhook, session), 10.0, "the webhook")
            assert await in_thread(states, session.pk) == ["starting", "active"]
        assert await in_thread(slots, tenant) == len(NAMES)
        assert {each.name for each in await in_thread(media.rooms)} == {f"voice-{session.pk}" for session in sessions}
        await pages[0].wait_for_function("(ms) => performance.now() - window.ear.micAt > ms", arg=(sound.LEAD_S + 2.5) * 1000)
        await pages[0].get_by_text("Details for support").click()
        await pages[0].screenshot(path=pictures / "talk.png", full_page=True)

        await asyncio.gather(*(_until_spoken(page) for page in pages))
        echoes = [await browsers.heard(page) for page in pages]
        for mine, theirs in ((0, 1), (1, 0)):
            right, wrong = (sound.likeness(voices[each], echoes[mine]) for each in (mine, theirs))
            assert right > 0.7, (right, wrong)
            assert wrong < 0.45, (right, wrong)

        await pages[0].get_by_role("button", name="Hang up").click()
        await expect(pages[0].locator("#talk")).to_have_attribute("data-state", "over")
        assert problems == [[], []]
        # Who closes the page hangs up, too.
        await pages[1].goto(f"{server.origin}/healthz")
        for session in sessions:
            assert (await in_thread(over, session.pk)).reason == "completed"
            # Who closes the page leaves the room, too, and the webhook that says so may be here before the word that ends the session.
            assert [each for each in await in_thread(states, session.pk) if each != "reconnecting"] == ["starting", "active", "ended"]
        await _look_at_history(pages[0], server, sessions[0], pictures)
    await in_thread(wait_until, lambda: media.rooms() == [], 10.0, "the end of the rooms")
    assert await in_thread(slots, tenant) == 0
    await in_thread(wait_until, lambda: not RoomRecord.objects.filter(closed_at__isnull=True).exists(), 10.0, "the rooms' records")
    assert "clean" in await in_thread(manage, "verify_capacity", "--history")
