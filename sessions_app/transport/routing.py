"""Which WebSocket paths there are. Whatever else is asked for is refused in an orderly way, not with a traceback."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.urls import path, re_path

from sessions_app.transport.consumers import VoiceConsumer
from sessions_app.transport.refusals import refuse_handshake


async def unknown_path(
    scope: Mapping[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """Refuse the handshake: there is nothing here."""
    await receive()
    await refuse_handshake(scope, receive, send, status=404, code="not_found", message="There is no WebSocket at this path.")


websocket_urlpatterns = [
    path("ws/voice/", VoiceConsumer.as_asgi()),
    re_path(r"", unknown_path),  # type: ignore[arg-type]
]
