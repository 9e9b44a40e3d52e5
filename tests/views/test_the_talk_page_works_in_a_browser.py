"""What the talk page's scripts do by themselves, in a real browser: sound conversion, and words where no call can begin.

The browser gets the page and the static files from this process, so no server is needed and no database: whole calls are in the
end-to-end tests.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.test import RequestFactory
from playwright.sync_api import Browser, Page

from sessions_app.domain.states import MEANINGS
from sessions_app.views import access
from tenants.models import Tenant
from tests.views.browsing import MODULES, open_browser, open_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@access.page
def talk_page(request: HttpRequest) -> HttpResponse:
    reasons = {reason.value: meaning.message for reason, meaning in MEANINGS.items()}
    context = {"tenants": [Tenant(slug="acme", name="Acme")], "ways": {"acme": []}, "reasons": reasons}
    return HttpResponse(render_to_string("talk.html", context))


@pytest.fixture(scope="module")
def scripts(browser: Browser) -> Page:
    return open_page(browser, "http://localhost/")


def converted(scripts: Page, frequencies: list[int], source: int, target: int) -> Any:
    """Half a second of sines of amplitude 1, through the worklets' converter in their blocks of 128 samples."""
    made = scripts.evaluate(
        """async ([modules, frequencies, source, target]) => {
            const { Resampler } = await import(`${modules}/resampler.js`);
            const resampler = new Resampler(source, target);
            const output = [];
            const block = new Float32Array(128);
            const room = new Float32Array(resampler.most(128));
            for (let start = 0; start < source / 2; start += 128) {
                for (let index = 0; index < 128; index += 1) {
                    const time = (start + index) / source;
                    block[index] = frequencies.reduce((sum, frequency) => sum + Math.sin(2 * Math.PI * frequency * time), 0);
                }
                const count = resampler.process(block, room);
                for (let index = 0; index < count; index += 1) output.push(room[index]);
            }
            return output;
        }""",
        [MODULES, frequencies, source, target],
    )
    return np.array(made)


def loudness(samples: Any) -> float:
    return float(np.sqrt(np.mean(samples**2)))


RATES = [(48_000, 24_000), (44_100, 24_000), (48_000, 16_000), (24_000, 48_000), (24_000, 44_100), (24_000, 24_000)]


@pytest.mark.parametrize(("source", "target"), RATES)
def test_speech_is_converted_without_loss_between_any_two_rates(scripts: Page, source: int, target: int) -> None:
    frequencies = [200, 1_000, 5_000]
    samples = converted(scripts, frequencies, source, target)
    assert abs(len(samples) - target / 2) < 500
    middle = samples[2_000:-2_000]
    times = np.arange(2_000, 2_000 + len(middle)) / target
    waves = np.stack([wave(2 * np.pi * each * times) for each in frequencies for wave in (np.sin, np.cos)], axis=1)
    parts = np.linalg.lstsq(waves, middle, rcond=None)[0]
    amplitudes = np.hypot(parts[0::2], parts[1::2])
    assert np.all(np.abs(amplitudes - 1) < 0.01)
    assert loudness(middle - waves @ parts) < 0.005


def test_what_the_lower_rate_cannot_hold_is_taken_out_instead_of_folded_back(scripts: Page) -> None:
    assert loudness(converted(scripts, [14_000], 48_000, 24_000)[2_000:-2_000]) < 0.003


def test_every_close_code_has_words_however_far_the_call_had_come(scripts: Page) -> None:
    codes = sorted({each.close for each in MEANINGS.values() if each.close} | {1001, 1005, 1006, 1009, 1011, 1012, 4400, 4404, 4409})
    words = scripts.evaluate(
        """async ([modules, codes]) => {
            const { closeWords } = await import(`${modules}/words.js`);
            const stages = ["new", "queued", "live", "stopping"].flatMap((stage) => [{ stage, isAway: false }, { stage, isAway: true }]);
            return codes.flatMap((code) => stages.map((stage) => [code, closeWords({ code, explanation: null, ...stage }, {})]));
        }""",
        [MODULES, codes],
    )
    assert len(words) == 8 * len(codes)
    for code, sentence in words:
        assert sentence.endswith(".")
        assert str(code) not in sentence


def test_the_servers_own_words_come_first_and_limits_are_told_with_their_numbers(scripts: Page) -> None:
    told = scripts.evaluate(
        """async (modules) => {
            const { closeWords, limitWords } = await import(`${modules}/words.js`);
            const reasons = { idle_timeout: "It was quiet." };
            return [
                closeWords({ code: 4429, explanation: { code: "queue_full", message: "Too many wait." }, stage: "new" }, reasons),
                closeWords({ code: 4000, explanation: { reason: "idle_timeout" }, stage: "live" }, reasons),
                limitWords([{ scope: "tenant", used: 3, limit: 3 }, { scope: "backend" }, { scope: "user", used: 1, limit: null }]),
            ];
        }""",
        MODULES,
    )
    assert told == ["Too many wait.", "It was quiet.", ["Your organisation: 3 of 3 in use"]]


def test_a_refused_credential_is_told_by_what_it_cost(scripts: Page) -> None:
    told = scripts.evaluate(
        """async (modules) => {
            const { closeWords } = await import(`${modules}/words.js`);
            const explanation = { type: "session.rejected", code: "authentication_failed", message: "The credential is spent." };
            return ["new", "queued", "live"].map((stage) => closeWords({ code: 4401, explanation, stage, isAway: true }, {}));
        }""",
        MODULES,
    )
    assert told == [
        "The call could not be opened: your pass was not accepted. Please start again.",
        "Your place in the queue was given up while the connection was lost. Please start again.",
        "The call ended while the connection was lost.",
    ]


def test_a_place_in_the_queue_is_told_with_the_time_that_it_takes(scripts: Page) -> None:
    told = scripts.evaluate(
        """async (modules) => {
            const { queueWords } = await import(`${modules}/words.js`);
            return [[3, 40], [1, 5], [2, null]].map(([position, estimated_wait_s]) => queueWords({ position, estimated_wait_s }));
        }""",
        MODULES,
    )
    assert told == ["You are number 3 in the queue, about 40 s.", "You are next in the queue, about 5 s.", "You are number 2 in the queue."]


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ("http://localhost", "The microphone is blocked. Allow it for this page in the browser, then start again."),
        ("http://voice.test", "The microphone needs a secure page: open this one over https, or on localhost."),
    ],
)
def test_without_a_microphone_the_page_says_what_to_do_and_can_start_again(browser: Browser, origin: str, words: str) -> None:
    response = talk_page(RequestFactory().get("/talk/"))
    policy = {"Content-Security-Policy": response["Content-Security-Policy"]}
    page = open_page(browser, f"{origin}/talk/", response.content, policy)
    page.get_by_role("button", name="Start talking").click()
    page.get_by_text(words).wait_for()
    assert page.locator("#talk").get_attribute("data-state") == "refused"
    assert page.get_by_role("button", name="Start talking").is_enabled()
