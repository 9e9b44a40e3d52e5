"""When the page's session comes back after a lost connection, with what, and when it stops trying.

In a real browser whose clock stands still, so that minutes cost nothing, and with this test as the far end of its WebSocket, so that it
can fail in every way. Whole calls against the real server are in the end-to-end tests.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, WebSocketRoute

from sessions_app.domain.states import MEANINGS
from tests.views.browsing import MODULES, open_browser, open_page

pytestmark = pytest.mark.browser

STARTED = {"session_id": "1", "audio": {"sample_rate": 24_000, "frame_ms": 20}}
HANDLERS = ["queued", "live", "lost", "draining", "audio", "problem", "roundTrip", "closed"]
# No time is left out of a delay: the longest that it could be. The WebSocket's address shows no token, so the offers are written down.
BEGIN = """async ([modules, handlers, wish]) => {
  Math.random = () => 1;
  const Socket = WebSocket;
  window.offers = [];
  window.sockets = [];
  window.WebSocket = class extends Socket {
    constructor(url, protocols) {
      super(url, protocols);
      window.offers.push(protocols.join());
      window.sockets.push(this);
    }
  };
  window.told = [];
  const { VoiceSession } = await import(`${modules}/voice-session.js`);
  const note = (name) => (...rest) => window.told.push([name, ...rest]);
  window.holds = false;
  const told = Object.fromEntries(handlers.map((name) => [name, note(name)]));
  window.session = new VoiceSession("ws://localhost/ws/voice/", "connect", { ...told, holds: () => window.holds }, wish);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


class FarEnd:
    """The other end of the page's sockets, and the page's clock.

    Attributes:
        page: Has ``session``, a session that has begun.
        sockets: Every one that was opened, in order, with what came on it.
    """

    def __init__(self, browser: Browser) -> None:
        self.page = open_page(browser, "http://localhost/")
        self.sockets: list[tuple[WebSocketRoute, list[Any]]] = []
        self.answer: Callable[[WebSocketRoute], None] = lambda _: None
        self.page.route_web_socket("**/ws/voice/", self._opened)
        self.page.clock.install(time=0)
        self.page.goto("http://localhost/")
        self.page.clock.pause_at(1000)

    def _opened(self, route: WebSocketRoute) -> None:
        heard: list[Any] = []
        route.on_message(lambda message: heard.append(json.loads(message) if isinstance(message, str) else message))
        self.sockets.append((route, heard))
        self.answer(route)

    def begin(self, **wish: str) -> None:
        self.page.evaluate(BEGIN, [MODULES, HANDLERS, wish])
        self.until(lambda: bool(self.sockets))

    def say(self, kind: str, **fields: Any) -> None:
        """Say it on the newest socket, of which the page is told."""
        before = len(self.told())
        self.sockets[-1][0].send(json.dumps({"type": kind, **fields}))
        self.until(lambda: len(self.told()) > before)

    def close(self, code: int) -> None:
        """Close the newest socket."""
        self.sockets[-1][0].close(code=code)
        self.until_closed()

    def until_closed(self) -> None:
        """Wait until every socket is closed."""
        self.until(lambda: bool(self.page.evaluate("window.sockets.every((socket) => socket.readyState === WebSocket.CLOSED)")))

    def told(self) -> list[Any]:
        """Return what the page was told."""
        told: list[Any] = self.page.evaluate("window.told")
        return told

    def offers(self) -> list[str]:
        """Return the tokens that were shown, one for each connection."""
        return [each.removeprefix("voice.v1,token.") for each in self.page.evaluate("window.offers")]

    def wait(self, ms: int) -> None:
        """Let this time pass in the page."""
        self.page.clock.run_for(ms)

    def until(self, condition: Callable[[], bool]) -> None:
        """Give the browser's messages the time to arrive."""
        for _ in range(500):
            self.page.evaluate("1")
            if condition():
                return
        raise AssertionError(f"it did not come: {self.told()}")


@pytest.fixture
def far(browser: Browser) -> Iterator[FarEnd]:
    far = FarEnd(browser)
    yield far
    far.page.close()


def test_it_waits_longer_from_try_to_try_up_to_a_cap_and_by_chance(far: FarEnd) -> None:
    delays = far.page.evaluate(
        """async (modules) => {
            const { delayMs } = await import(`${modules}/coming-back.js`);
            const real = Array.from({ length: 200 }, () => delayMs(9));
            return [[0, 1, 2, 3, 4, 5, 60].map((tries) => delayMs(tries, 1)), delayMs(3, 0), Math.min(...real), Math.max(...real)];
        }""",
        MODULES,
    )
    longest, shortest, least, most = delays
    assert longest == [250, 500, 1000, 2000, 4000, 4000, 4000]
    assert shortest == 0
    assert least < 1000
    assert 3000 < most <= 4000


def test_only_a_loss_is_come_back_from(far: FarEnd) -> None:
    codes = sorted({1000, 1001, 1006, 1009, 1012, 4400, 4409, *(each.close for each in MEANINGS.values() if each.close)})
    back = far.page.evaluate(
        """async ([modules, codes]) => {
            const { mayComeBack } = await import(`${modules}/coming-back.js`);
            const rejected = (code) => ({ type: "session.rejected", code });
            return [
                codes.filter((code) => mayComeBack({ code, explanation: null }, true)),
                mayComeBack({ code: 4012, explanation: { type: "session.ended", reason: "drained" } }, true),
                ["node_draining", "unavailable", "overloaded", "authentication_failed"].map(
                    (code) => [true, false].map((hasPlace) => mayComeBack({ code: 4013, explanation: rejected(code) }, hasPlace))
                ),
            ];
        }""",
        [MODULES, codes],
    )
    assert back == [[1001, 1006, 1012, 4012, 4013], False, [[True, True], [True, False], [True, False], [False, False]]]


def test_before_there_is_a_session_the_connect_token_is_shown_again_until_it_is_no_use(far: FarEnd) -> None:
    far.begin()
    far.until(lambda: far.sockets[0][1] == [{"type": "session.start"}])
    far.answer = lambda route: route.close(code=1012)
    far.close(1012)
    assert far.told() == [["lost", "new"]]
    for second in range(60):
        far.wait(500)
        far.until_closed()
        if far.told()[-1][0] == "closed":
            break
        assert second < 59
    assert far.told()[-1] == ["closed", {"code": 1006, "explanation": None, "stage": "new", "isAway": True}]
    assert far.offers() == ["connect"] * len(far.sockets)
    assert 6 <= len(far.sockets) <= 14, "more often than the backoff allows, or hardly at all"


def test_a_place_in_the_queue_is_kept_by_its_own_token_and_so_is_the_session_after_it(far: FarEnd) -> None:
    far.begin()
    far.say("session.queued", resume_token="first", position=3, estimated_wait_s=40)
    far.close(1006)
    assert far.told()[-1] == ["lost", "queued"]
    far.wait(250)
    far.until(lambda: len(far.sockets) == 2)
    far.say("session.queued", resume_token="second", position=2, estimated_wait_s=20)
    assert far.told()[-1][0] == "queued"
    far.say("session.started", resume_token="third", **STARTED)
    assert far.told()[-1][::2] == ["live", None]
    far.until(lambda: [each["type"] for each in far.sockets[1][1]] == ["ping"])
    far.close(4012)
    far.wait(500)
    far.until(lambda: len(far.sockets) == 3)
    far.say("session.resumed", resume_token="fourth", gap_ms=250, **STARTED)
    assert far.told()[-1][::2] == ["live", 500]
    far.until(lambda: [each["type"] for each in far.sockets[2][1]] == ["ping"])
    assert far.offers() == ["connect", "first", "third"]


def test_a_store_that_is_away_is_left_alone_for_as_long_as_it_asks(far: FarEnd) -> None:
    far.begin()
    far.say("session.started", resume_token="first", **STARTED)

    def refuse(route: WebSocketRoute) -> None:
        route.send('{"type": "session.rejected", "code": "unavailable", "retry_after_s": 5}')
        route.close(code=4013)

    far.answer = refuse
    far.close(1006)
    far.wait(250)
    far.until(lambda: len(far.sockets) == 2)
    far.until_closed()
    far.wait(4900)
    assert len(far.offers()) == 2
    far.wait(600)
    far.until(lambda: len(far.sockets) == 3)
    assert [each[0] for each in far.told()] == ["live", "lost"]


def test_nothing_is_sent_before_the_answer_and_silence_counts_as_loss(far: FarEnd) -> None:
    far.begin()
    far.say("session.started", resume_token="first", **STARTED)
    far.wait(7000)
    assert [each[0] for each in far.told()] == ["live"]
    far.wait(3500)
    assert [each[0] for each in far.told()] == ["live", "lost"], "its pings were not answered"
    far.wait(250)
    far.until(lambda: len(far.sockets) == 2)
    far.wait(9000)
    assert far.page.evaluate("window.session.sendAudio(new ArrayBuffer(960))") is False
    far.wait(2000)
    far.until(lambda: len(far.sockets) == 3)
    assert far.sockets[1][1] == []


def test_what_is_wished_for_is_asked_for_and_only_at_the_beginning(far: FarEnd) -> None:
    far.begin(transport="webrtc", backend="livekit")
    far.until(lambda: far.sockets[0][1] == [{"type": "session.start", "transport": "webrtc", "backend": "livekit"}])
    far.say("session.started", resume_token="first", **STARTED)
    far.page.evaluate("window.session.renew()")
    far.wait(250)
    far.until(lambda: len(far.sockets) == 2)
    far.say("session.resumed", resume_token="second", gap_ms=0, **STARTED)
    assert far.offers() == ["connect", "first"]
    assert "session.start" not in [each["type"] for each in far.sockets[1][1]]


def test_while_the_sound_has_a_way_of_its_own_it_is_never_given_up(far: FarEnd) -> None:
    far.begin()
    far.say("session.started", resume_token="first", **STARTED)
    far.page.evaluate("window.holds = true")
    far.answer = lambda route: route.close(code=1012)
    far.close(1012)
    for _ in range(120):
        far.wait(500)
        far.until_closed()
    assert [each[0] for each in far.told()] == ["live", "lost"]
    tries = len(far.sockets)
    assert 12 <= tries <= 24, "more often than the backoff allows, or hardly at all"
    far.page.evaluate("window.holds = false")
    for _ in range(9):
        far.wait(500)
        far.until_closed()
    assert far.told()[-1] == ["closed", {"code": 1006, "explanation": None, "stage": "live", "isAway": True}]


def test_the_network_coming_back_is_reason_to_try_at_once_and_stopping_ends_it(far: FarEnd) -> None:
    far.begin()
    far.say("session.started", resume_token="first", **STARTED)
    far.close(1006)
    far.page.evaluate("void dispatchEvent(new Event('online'))")
    far.until(lambda: len(far.sockets) == 2)
    far.close(1006)
    far.page.evaluate("window.session.stop()")
    far.page.evaluate("void dispatchEvent(new Event('online'))")
    far.wait(20_000)
    assert far.told()[-1] == ["closed", {"code": 1000, "explanation": None, "stage": "live", "isAway": True}]
    assert far.offers() == ["connect", "first"]


def test_a_newer_connection_of_the_session_is_not_fought(far: FarEnd) -> None:
    far.begin()
    far.say("session.started", resume_token="first", **STARTED)
    far.close(4409)
    far.wait(20_000)
    assert far.told()[-1] == ["closed", {"code": 4409, "explanation": None, "stage": "live", "isAway": False}]
    assert far.offers() == ["connect"]
