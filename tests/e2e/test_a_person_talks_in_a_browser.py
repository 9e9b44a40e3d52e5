"""The main job as a person does it: sign in, press the button, talk, hang up; and what ops see meanwhile.

``SCREENSHOT_DIR`` keeps the pictures that are made on the way.
"""

import asyncio
import os
import time
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
from tests.e2e import sound
from tests.e2e.client import Call
from tests.e2e.rows import over, states
from tests.e2e.server import Server, manage
from tests.e2e.visitor import PASSWORD, Visitor

pytestmark = pytest.mark.browser
BOTH_METERS_SHOW = """() => ["mine", "theirs"].every(
  (name) => new DOMMatrix(getComputedStyle(document.querySelector(`[data-part="meter-${name}"]`)).transform).a > 0.3
)"""
AGENT_IS_HEARD = """() => new DOMMatrix(getComputedStyle(document.querySelector('[data-part="meter-theirs"]')).transform).a > 0.3"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("SCREENSHOT_DIR", tmp_path))


@pytest.fixture
def member(new_tenant: Callable[..., Tenant]) -> Callable[..., tuple[str, Tenant]]:
    """Make a user of a tenant with this quota."""

    def make(name: str, slug: str = "", **quota: int) -> tuple[str, Tenant]:
        tenant = new_tenant(slug=slug, **quota)
        tenant_services.add_member(tenant=tenant, user=User.objects.create_user(name, password=PASSWORD))
        return name, tenant

    return make


@pytest.fixture
def ann(member: Callable[..., tuple[str, Tenant]], dial: Callable[..., Call]) -> tuple[str, Tenant]:
    """A member of a tenant where others talk already."""
    name, tenant = member("ann", "demo")
    for number in range(4):
        dial(tenant, f"customer-{number}").start()
    return name, tenant


@pytest.fixture
def nobody(member: Callable[..., tuple[str, Tenant]]) -> tuple[str, Tenant]:
    return member("nobody", max_concurrent_sessions=0)


@pytest.fixture
def ops(shared_db: None) -> str:
    User.objects.create_superuser(username="ops", password=PASSWORD)
    return "ops"


async def _until_spoken(page: Page) -> None:
    """Wait until the microphone's file has been played, and its echo too."""
    milliseconds = (sound.LEAD_S + sound.SPEECH_S + 2) * 1000
    await page.wait_for_function("(ms) => window.ear.micAt !== null && performance.now() - window.ear.micAt > ms", arg=milliseconds)


async def _session_of(tenant: Tenant, user: str) -> Session:
    return await in_thread(Session.objects.get, tenant=tenant, user=user)


@pytest.mark.every_server
async def test_the_voice_that_comes_back_is_the_voice_that_went_in(
    server: Server, ann: tuple[str, Tenant], ops: str, tmp_path: Path, pictures: Path
) -> None:
    name, tenant = ann
    said = sound.speech(seed=1)
    sound.write_wav(tmp_path / "voice.wav", said)
    watcher = await asyncio.to_thread(_signed_in, server, ops)
    async with browsers.open_browser(tmp_path / "voice.wav") as browser:
        page = await browsers.sign_in(browser, server.origin, name, "/talk/?raw=1")
        problems = browsers.collect_problems(page)

        await page.get_by_role("button", name="Start talking").click()
        await expect(page.locator("#talk")).to_have_attribute("data-state", "live")
        began = time.monotonic()
        await expect(page.get_by_role("status")).to_contain_text("You are connected")
        session = await _session_of(tenant, name)
        assert session.state == "active"
        for path in (
            f"/ops/sessions/?tenant={tenant.slug}",
            f"/ops/sessions/{session.pk}/",
            f"/admin/sessions_app/session/{session.pk}/change/",
        ):
            assert "active" in await asyncio.to_thread(watcher.get, path), path

        await page.wait_for_function("(ms) => performance.now() - window.ear.micAt > ms", arg=(sound.LEAD_S + 2.5) * 1000)
        await expect(page.locator('[data-part="round-trip"]')).to_contain_text("ms")
        await page.get_by_text("Details for support").click()
        await page.wait_for_function(BOTH_METERS_SHOW)
        await page.screenshot(path=pictures / "talk-websocket.png")
        await _until_spoken(page)
        assert problems == []
        echo = await browsers.heard(page)
        likeness, unlikeness = sound.likeness(said, echo), sound.likeness(sound.speech(seed=2), echo)
        assert likeness > 0.9, (likeness, unlikeness)
        assert unlikeness < 0.6, "another voice is told apart"

        await page.get_by_role("button", name="Hang up").click()
        await expect(page.locator("#talk")).to_have_attribute("data-state", "over")
        lasted_ms = (time.monotonic() - began) * 1000
        assert problems == []
        ended = await in_thread(over, session.pk)
        timeline = await browsers.sign_in(browser, server.origin, ops, f"/ops/sessions/{session.pk}/")
        await expect(timeline.get_by_label("Timeline")).to_contain_text("completed")
        await timeline.screenshot(path=pictures / "call.png", full_page=True)
    assert (ended.state, ended.reason) == ("ended", "completed")
    assert ended.duration_ms is not None
    assert abs(ended.duration_ms - lasted_ms) < 4000
    assert await in_thread(states, session.pk) == ["starting", "active", "ended"]
    await in_thread(manage, "verify_capacity")


async def test_closing_the_page_is_hanging_up(server: Server, member: Callable[..., tuple[str, Tenant]]) -> None:
    name, tenant = await in_thread(member, "bob")
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, name, "/talk/")
        await page.get_by_role("button", name="Start talking").click()
        await expect(page.locator("#talk")).to_have_attribute("data-state", "live")
        session = await _session_of(tenant, name)
        await page.goto(f"{server.origin}/healthz")
        assert (await in_thread(over, session.pk)).reason == "completed"


async def test_whoever_belongs_to_several_tenants_talks_for_the_one_that_they_pick(
    server: Server, member: Callable[..., tuple[str, Tenant]], new_tenant: Callable[..., Tenant]
) -> None:
    def prepare() -> Tenant:
        name, _ = member("cleo")
        second = new_tenant()
        tenant_services.add_member(tenant=second, user=User.objects.get(username=name))
        return second

    second = await in_thread(prepare)
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, "cleo", "/talk/")
        await page.get_by_label("For which organisation").select_option(second.slug)
        await page.get_by_role("button", name="Start talking").click()
        await expect(page.locator("#talk")).to_have_attribute("data-state", "live")
        assert (await in_thread(Session.objects.get, user="cleo")).tenant_id == second.pk


async def test_a_muted_microphone_is_not_heard(server: Server, member: Callable[..., tuple[str, Tenant]]) -> None:
    await in_thread(member, "dora")
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, "dora", "/talk/?raw=1")
        await page.get_by_role("button", name="Start talking").click()
        await page.wait_for_function(AGENT_IS_HEARD)  # the browser's own microphone beeps once a second
        await page.get_by_role("button", name="Mute").click()
        await expect(page.locator('[data-part="hints"]')).to_contain_text("Your microphone is muted.")
        await page.wait_for_function("window.muted = { since: window.ear.blocks.length }")
        # What was said before has come back by then: only silence follows, for longer than there is between two beeps.
        await page.wait_for_function(
            """() => {
                const quiet = (block) => block.every((sample) => Math.abs(sample) < 0.01);
                const blocks = window.ear.blocks.slice(window.muted.since);
                const seconds = (blocks.length * 4096) / window.ear.rate;
                return seconds > 4 && blocks.slice(blocks.length / 2).every(quiet);
            }"""
        )
        await page.get_by_role("button", name="Unmute").click()
        await page.wait_for_function(AGENT_IS_HEARD)


async def test_a_refusal_is_told_in_plain_words(server: Server, nobody: tuple[str, Tenant]) -> None:
    name, tenant = nobody
    async with browsers.open_browser() as browser:
        page = await browsers.sign_in(browser, server.origin, name, "/talk/")
        await page.get_by_role("button", name="Start talking").click()
        await expect(page.locator("#talk")).to_have_attribute("data-state", "refused")
        await expect(page.get_by_role("status")).to_contain_text("Your organisation has as many sessions as it may have at once")
        await expect(page.locator('[data-part="hints"]')).to_contain_text("0 of 0")
        await in_thread(manage, "set_quota", tenant.slug, "max_concurrent_sessions=1")
        await page.get_by_role("button", name="Start talking").click()
        await expect(page.locator("#talk")).to_have_attribute("data-state", "live")


def _signed_in(server: Server, name: str) -> Visitor:
    visitor = Visitor(server.origin)
    visitor.sign_in(name)
    return visitor
