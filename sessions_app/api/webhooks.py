"""The door for providers' webhooks: ``POST /webhooks/<provider>/<backend>/``.

An ASGI application of its own, past Django's middleware: who sends has no session, no cookies and no page to see, only a signature, and
many events come at once. Owns: the size and the statuses. 200 says stored, so the provider need not tell it again; 401 a wrong signature,
413 a body above ``MAX_BODY_BYTES``, 404 a backend that there is not, 503 that the database is away. Refuses: what an event means.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final

import psycopg
from django.db import InterfaceError, OperationalError

from sessions_app.runtime import webhooks
from sessions_app.runtime.webhooks import PREFIX, Received

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 64 * 1024
MAX_BODY_S: Final = 10.0  # for a body to arrive
MAX_AUTHORIZATION: Final = 8192  # bytes
RETRY_AFTER_S: Final = 5

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_ADDRESS: Final = re.compile(PREFIX + r"([-a-zA-Z0-9_]+)/([-a-zA-Z0-9_]+)/")
_AWAY: Final = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
_STATUS: Final = {
    Received.STORED: HTTPStatus.OK,
    Received.REPEATED: HTTPStatus.OK,
    Received.UNKNOWN: HTTPStatus.NOT_FOUND,
    Received.WRONG_SIGNATURE: HTTPStatus.UNAUTHORIZED,
    Received.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


class _Gone(Exception):
    """Who sent has hung up, or sends too slowly."""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Take one event."""
    more: list[tuple[bytes, bytes]] = []
    address = _ADDRESS.fullmatch(scope["path"])
    if address is None:
        status = HTTPStatus.NOT_FOUND
    elif scope["method"] != "POST":
        status, more = HTTPStatus.METHOD_NOT_ALLOWED, [(b"allow", b"POST")]
    else:
        try:
            status = await _take(address[1], address[2], scope, receive)
        except _Gone:
            status = HTTPStatus.REQUEST_TIMEOUT
        except _AWAY as error:
            logger.warning("a webhook could not be stored, the database is away: %s", type(error.__cause__ or error).__name__)
            status, more = HTTPStatus.SERVICE_UNAVAILABLE, [(b"retry-after", str(RETRY_AFTER_S).encode())]
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"0"), (b"cache-control", b"no-store"), *more]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _take(provider: str, backend: str, scope: Scope, receive: Receive) -> HTTPStatus:
    body = await _read(receive)
    if body is None:
        return _STATUS[await webhooks.too_large(provider=provider, backend=backend)]
    authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")[:MAX_AUTHORIZATION].decode("latin-1")
    return _STATUS[await webhooks.receive(provider=provider, backend=backend, body=body, authorization=authorization)]


async def _read(receive: Receive) -> bytes | None:
    """Return the body; None for one that is too large, whatever length the sender stated.

    Raises:
        _Gone: It did not come, or not in time.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(MAX_BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise _Gone
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    return None
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise _Gone from None
