"""The calls to one LiveKit server: time limits, retries, and the one place where its errors become ours.

Owns: the HTTP session, made at the first call and kept for the event loop that made it; how long one answer may take; up to three tries.
Refuses: LiveKit's own retries, which are for its cloud only, and every word of the server's in an error: it repeats the API key.
Limits: a call ends within twice ``request_timeout_s``. A client that is dropped without ``aclose`` closes its session on its own loop.
"""

import asyncio
import random
import weakref
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, TypeVar

import aiohttp
from google.protobuf.message import DecodeError
from livekit import api

from sessions_app.providers.exceptions import ConnectionFailed, InvalidConfig, OpenTimeout, ProviderError, ProviderFailed

MAX_TRIES: Final = 3
FIRST_PAUSE_S: Final = 0.1  # before the second try, at most; twice as long before the third
MAX_CONNECTIONS: Final = 64
NOT_FOUND: Final = "not_found"
_REFUSED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})

Answer = TypeVar("Answer")
Ask = Callable[[api.LiveKitAPI], Awaitable[Answer]]


class Client:
    """One server's, for one event loop.

    Args:
        url: ``http://`` or ``https://``.
        key: The API key.
        secret: Its secret.
        timeout_s: Longest wait for one answer, in seconds.
    """

    def __init__(self, *, url: str, key: str, secret: str, timeout_s: float) -> None:
        self._url = url
        self._key = key
        self._secret = secret
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._api: api.LiveKitAPI | None = None
        self._forget: weakref.finalize[..., Client] | None = None

    async def ask(self, call: Ask[Answer], *, tries: int = MAX_TRIES, absent: Answer | None = None) -> Answer:
        """Return the server's answer.

        Args:
            call: What to ask; asked again, so it must do no more the second time.
            tries: How often at most.
            absent: What to return where the server says that there is no such thing; None: that is a failure.

        Raises:
            InvalidConfig: The server refuses the key.
            ConnectionFailed: It cannot be reached, or takes no calls now.
            OpenTimeout: It did not answer in time.
            ProviderFailed: Anything else.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + 2 * self._timeout_s
        for number in range(1, tries + 1):
            try:
                return await self._once(call)
            except api.ServerError as error:
                if error.code == NOT_FOUND and absent is not None:
                    return absent
                failure = _of_server(error)
            except TimeoutError:
                failure = OpenTimeout(f"LiveKit did not answer within {self._timeout_s:g} s.")
            except aiohttp.ClientError as error:
                failure = ConnectionFailed(f"LiveKit cannot be reached ({type(error).__name__}).")
            except (ValueError, DecodeError) as error:  # what answers is no LiveKit
                failure = ProviderFailed(f"LiveKit's answer cannot be read ({type(error).__name__}).")
            pause = random.uniform(0, FIRST_PAUSE_S * 2 ** (number - 1))  # noqa: S311 - spreads tries, hides nothing
            # A try that could only be cut short is not begun.
            if number == tries or not isinstance(failure, ConnectionFailed | OpenTimeout) or loop.time() + pause + self._timeout_s > until:
                raise failure
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def post(self, url: str, content: object) -> int:
        """Post JSON to an address that belongs to this backend but is not LiveKit's, and return the status of the answer.

        Raises:
            ConnectionFailed: It cannot be reached.
            OpenTimeout: It did not answer in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._http().post(url, json=content, allow_redirects=False) as answer:
                return answer.status
        except TimeoutError:
            raise OpenTimeout(f"the agent did not answer within {self._timeout_s:g} s.") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise ConnectionFailed(f"the agent cannot be reached ({type(error).__name__}).") from None

    async def aclose(self) -> None:
        """Close the session; a later call makes another one."""
        session, self._session, self._api = self._session, None, None
        if self._forget is not None:
            self._forget.detach()
            self._forget = None
        if session is not None:
            await session.close()

    async def _once(self, call: Ask[Answer]) -> Answer:
        self._http()
        assert self._api is not None
        async with asyncio.timeout(self._timeout_s):
            return await call(self._api)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            # The limits are those of asyncio.timeout around each call.
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS), timeout=aiohttp.ClientTimeout(total=None), trust_env=False
            )
            self._session = session
            self._api = api.LiveKitAPI(self._url, self._key, self._secret, session=session, failover=False)
            self._forget = weakref.finalize(self, _close_later, asyncio.get_running_loop(), session)
        return self._session


def _close_later(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """Close a forgotten client's session on its own loop; where that is closed, so are its sockets."""

    def close() -> None:
        closing = loop.create_task(session.close())
        closing.add_done_callback(lambda task: task.exception())

    if not loop.is_closed():
        loop.call_soon_threadsafe(close)


def _of_server(error: api.ServerError) -> ProviderError:
    told = f"LiveKit answered {error.status} ({error.code})."
    if error.status in _REFUSED or error.code in {"unauthenticated", "permission_denied"}:
        # A wrong secret is code "unknown" with status 401.
        return InvalidConfig(f"LiveKit refuses the API key or its secret ({error.status}).")
    if error.status in _BUSY or error.code in {"unavailable", "resource_exhausted"}:
        return ConnectionFailed(told)
    if error.status == HTTPStatus.GATEWAY_TIMEOUT or error.code == "deadline_exceeded":
        return OpenTimeout(told)
    return ProviderFailed(told)
