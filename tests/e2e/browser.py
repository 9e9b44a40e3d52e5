"""A real Chromium whose microphone plays a file, and an ear behind the page's speaker."""

import base64
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.e2e.sound import RATE, Samples
from tests.e2e.visitor import PASSWORD

SOON_MS: Final = 20_000
DESKTOP: Final = {"width": 1280, "height": 800}
PHONE: Final = {"width": 390, "height": 844}
NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS: Final = [
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
]
# Whatever is played goes through an old kind of node too, since the page's policy lets in no worklet of ours.
# `micAt` is when the microphone began to play its file.
EAR: Final = """
window.ear = { rate: 0, blocks: [], micAt: null };
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...rest) {
  if (target instanceof AudioDestinationNode) {
    window.ear.rate = this.context.sampleRate;
    const ear = this.context.createScriptProcessor(4096, 1, 1);
    ear.onaudioprocess = ({ inputBuffer }) => window.ear.blocks.push(inputBuffer.getChannelData(0).slice());
    connect.call(this, ear);
    connect.call(ear, target);
  }
  return connect.call(this, target, ...rest);
};
// What an element plays is heard at its source; each track once, however often it is attached.
const source = Object.getOwnPropertyDescriptor(HTMLMediaElement.prototype, "srcObject");
const known = new Set();
Object.defineProperty(HTMLMediaElement.prototype, "srcObject", {
  ...source,
  set(stream) {
    source.set.call(this, stream);
    for (const track of stream?.getAudioTracks() ?? []) {
      if (known.has(track)) continue;
      known.add(track);
      const context = (window.ear.context ??= new AudioContext());
      window.ear.rate = context.sampleRate;
      const ear = context.createScriptProcessor(4096, 1, 1);
      ear.onaudioprocess = ({ inputBuffer }) => window.ear.blocks.push(inputBuffer.getChannelData(0).slice());
      connect.call(context.createMediaStreamSource(new MediaStream([track])), ear);
      connect.call(ear, context.destination);
    }
  },
});
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  const stream = await ask(wanted);
  window.ear.micAt = performance.now();
  return stream;
};
"""
HEARD: Final = """() => {
  const all = new Int16Array(window.ear.blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of window.ear.blocks) for (const sample of block) all[at++] = Math.max(-1, Math.min(1, sample)) * 32767;
  const bytes = new Uint8Array(all.buffer);
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768) text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  return btoa(text);
}"""


def chromium() -> str:
    """Return the browser's path; the test is skipped where there is none, and fails in CI."""
    path = os.environ.get("CHROMIUM_BIN") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("there is no Chromium here: set CHROMIUM_BIN")
    return path


@asynccontextmanager
async def open_browser(microphone: Path | None = None) -> AsyncIterator[Browser]:
    """Open one whose microphone plays the file once."""
    arguments = [*ARGUMENTS, *([f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else [])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=arguments, chromium_sandbox=os.geteuid() != 0)
        try:
            yield browser
        finally:
            await browser.close()


async def sign_in(browser: Browser, origin: str, name: str, path: str, *, size: dict[str, int] = DESKTOP) -> Page:
    """Return a page of a new person, signed in, at this path."""
    context = await browser.new_context(viewport={"width": size["width"], "height": size["height"]}, permissions=["microphone"])
    page = await context.new_page()
    page.set_default_timeout(SOON_MS)
    await page.add_init_script(EAR)
    await page.goto(f"{origin}{path}")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{origin}{path}")
    return page


def collect_problems(page: Page) -> list[str]:
    """Return a list that fills with what goes wrong in the page from now on: scripts, and what it asked for and did not get."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("response", lambda answer: problems.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    page.on("requestfailed", lambda request: problems.append(f"{request.failure} {request.url}"))
    return problems


async def heard(page: Page) -> Samples:
    """Return all that the speaker has played, at ``RATE``; what the machine's own rate is matters to nobody here."""
    rate = await page.evaluate("window.ear.rate")
    raw = base64.b64decode(await page.evaluate(HEARD))
    samples = np.frombuffer(raw, dtype="<i2").astype(np.float64) / 32768
    return np.interp(np.arange(0, samples.size, rate / RATE), np.arange(samples.size), samples)


async def scrolls_sideways(page: Page) -> bool:
    """Whether the page is wider than its window."""
    return bool(await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
