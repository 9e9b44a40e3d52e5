"""A browser that gets its page and the static files from this process: no server is needed, and no database."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from django.contrib.staticfiles import finders
from playwright.sync_api import Browser, Page, Route, sync_playwright

MODULES: Final = "/static/sessions_app"
TYPES: Final = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Open one; the test is skipped where there is none."""
    program = os.environ.get("CHROMIUM_BIN") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--use-fake-device-for-media-stream"])
        yield browser
        browser.close()


def open_page(browser: Browser, address: str, html: bytes = b"", headers: dict[str, str] | None = None) -> Page:
    """Open the address with this as its page, and the static files beside it."""

    def answer(route: Route) -> None:
        path = route.request.url.partition("://")[2].partition("/")[2]
        found = finders.find(path.removeprefix("static/")) if path.startswith("static/") else None
        if isinstance(found, str):
            route.fulfill(path=found, content_type=TYPES[path.rpartition(".")[2]])
        else:
            route.fulfill(body=html, content_type="text/html", headers=headers)

    page = browser.new_page()
    page.route("**/*", answer)
    page.goto(address)
    return page
