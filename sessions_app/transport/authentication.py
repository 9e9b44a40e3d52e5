"""Who is at the WebSocket's door: protocol, origin and credential of a handshake, without a look at the database.

Owns: where the connect or resume token is found and which pages may open the socket. A token never comes in the query string, which
would end up in logs.
Refuses: cookies; a browser's login is no credential here, so that another site's page cannot use it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from django.conf import settings

from sessions_app.services import tokens
from sessions_app.services.exceptions import AuthenticationFailed, PermissionDenied

SUBPROTOCOL: Final = "voice.v1"
_CARRIES: Final = "token."
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def authenticate(scope: Mapping[str, Any]) -> tokens.Claims:
    """Return whom the handshake is for.

    Raises:
        PermissionDenied: A page of another origin opens it.
        AuthenticationFailed: No credential, two different ones, or one that is not good.
    """
    headers = _headers(scope)
    if not _origin_allowed(headers.get("origin"), headers.get("host", ""), scope):
        raise PermissionDenied("Pages of this origin may not connect.")
    offered = {each.removeprefix(_CARRIES) for each in scope.get("subprotocols", ()) if each.startswith(_CARRIES)}
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        offered.add(bearer.strip())
    if len(offered) != 1:
        raise AuthenticationFailed
    return tokens.read_token(offered.pop())


def subprotocol(scope: Mapping[str, Any]) -> str | None:
    """Return the protocol to speak, None where the client did not offer it."""
    offered: Sequence[str] = scope.get("subprotocols", ())
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def wants_http_refusal(scope: Mapping[str, Any]) -> bool:
    """Return whether the client asked to be refused over HTTP (``?refuse=http``), which browsers could not read."""
    query = scope.get("query_string", b"").decode("latin-1")
    try:
        return parse_qs(query, max_num_fields=20).get("refuse") == ["http"]
    except ValueError:
        return False


def _headers(scope: Mapping[str, Any]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}


def _origin_allowed(origin: str | None, host: str, scope: Mapping[str, Any]) -> bool:
    if origin is None:
        return True  # not a browser
    if origin.lower().rstrip("/") in {each.lower().rstrip("/") for each in settings.VOICE_ALLOWED_ORIGINS}:
        return True
    try:
        asked = urlsplit(origin)
        if asked.scheme not in {"http", "https"} or asked.hostname is None:
            return False
        # Behind a proxy that ends TLS the page is https and this side is not: an absent port means the page's default one on both sides.
        own = urlsplit(f"{asked.scheme}://{host}")
        return (asked.hostname, asked.port or _PORTS[asked.scheme]) == (own.hostname, own.port or _own_port(asked.scheme, scope))
    except ValueError:
        return False


def _own_port(page_scheme: str, scope: Mapping[str, Any]) -> int:
    """Return the port that a ``Host`` header without one means: the default of the scheme that the client used."""
    if settings.SECURE_PROXY_SSL_HEADER:
        return _PORTS[page_scheme]
    return _PORTS.get(scope.get("scheme", "ws"), 80)
