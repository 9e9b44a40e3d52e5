"""How a client is told no: over HTTP before the handshake is done, or in a message that says why.

Owns: what an end user may see of a limit. Their own numbers and those of the scope that refused, but never the numbers of the platform
or of a backend, which tell how others use it.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from sessions_app.domain.admission import Limit
from sessions_app.domain.states import MEANINGS, Reason
from sessions_app.domain.world import Scope
from sessions_app.transport import messages

_REFUSING: Final = {
    Reason.PLATFORM_LIMIT: Scope.PLATFORM,
    Reason.BACKEND_LIMIT: Scope.BACKEND,
    Reason.SESSION_LIMIT: Scope.TENANT,
    Reason.USER_LIMIT: Scope.USER,
}
_WITHOUT_NUMBERS: Final = {Scope.PLATFORM, Scope.BACKEND}
RETRY_AFTER_S: Final = {Reason.NODE_DRAINING: 1, Reason.OVERLOADED: 2, Reason.UNAVAILABLE: 5}

GONE_S: Final = 1.0

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def rejected(reason: Reason, *, retry_after_s: int | None = None, limits: Sequence[Limit] = ()) -> messages.SessionRejected:
    """Return the refusal as an end user may see it, the scope that refused first."""
    refusing = _REFUSING.get(reason)
    seen = [each for each in limits if each.scope is refusing]
    seen += [each for each in limits if each.scope is Scope.USER and each.scope is not refusing]
    return messages.SessionRejected(
        code=reason.value,
        message=MEANINGS[reason].message,
        retry_after_s=retry_after_s if retry_after_s is not None else RETRY_AFTER_S.get(reason),
        limits=[_scope_limit(each) for each in seen],
    )


def _scope_limit(limit: Limit) -> messages.ScopeLimit:
    if limit.scope in _WITHOUT_NUMBERS:
        return messages.ScopeLimit(scope=limit.scope.value)
    return messages.ScopeLimit(scope=limit.scope.value, used=limit.used, limit=limit.limit)


async def refuse_handshake(
    scope: Mapping[str, Any], receive: Receive, send: Send, *, status: int, code: str, message: str, retry_after_s: int | None = None
) -> None:
    """Refuse before the socket is accepted, with this HTTP status where the server can, else with its own (403)."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close"})
        return
    body = json.dumps({"code": code, "message": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if retry_after_s is not None:
        headers.append((b"retry-after", str(retry_after_s).encode()))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GONE_S):
            # uvicorn tells of the disconnect twice, the second time when the connection is gone; who returns before that is
            # logged as having left the handshake undone.
            await receive()
            await receive()
