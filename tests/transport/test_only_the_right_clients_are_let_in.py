"""Protocol, origin and credential of the handshake, and how each refusal is told."""

from typing import Any

import pytest
from channels.routing import URLRouter

from sessions_app.services.exceptions import AuthenticationFailed, PermissionDenied
from sessions_app.transport.authentication import authenticate
from sessions_app.transport.routing import unknown_path, websocket_urlpatterns
from tests.calls import Client, Closed, House, make_backend, make_tenant, scope


async def refusal(client: Client) -> tuple[str, int]:
    code = (await client.hears("session.rejected"))["code"]
    return code, (await client.hears(Closed)).code


@pytest.mark.parametrize("token", [None, "", "rubbish", "a.b.c"])
async def test_without_a_good_token_the_socket_is_accepted_told_and_closed(home: House, token: str | None) -> None:
    client = home.connect(subprotocols=["voice.v1"] if token is None else ["voice.v1", f"token.{token}"])
    assert await refusal(client) == ("authentication_failed", 4401)
    assert client.accepted


async def test_a_bearer_header_is_as_good_as_a_subprotocol(home: House) -> None:
    tenant = await make_tenant()
    await make_backend()
    client = home.connect(subprotocols=["voice.v1"], headers={"authorization": f"Bearer {home.token(tenant)}"})
    await client.starts()


async def test_two_different_tokens_are_refused(home: House) -> None:
    tenant = await make_tenant()
    client = home.connect(home.token(tenant), headers={"authorization": f"Bearer {home.token(tenant)}"})
    assert await refusal(client) == ("authentication_failed", 4401)


async def test_a_client_that_does_not_offer_the_protocol_is_told_so(home: House) -> None:
    tenant = await make_tenant()
    client = home.connect(subprotocols=[f"token.{home.token(tenant)}"])
    assert (await client.hears("error"))["code"] == "invalid_message"
    assert await client.hears() == Closed(4400)
    assert client.subprotocol is None


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://voice.test", "voice.test", True),
        ("http://voice.test:80", "voice.test", True),
        ("http://voice.test:8000", "voice.test:8000", True),
        ("http://VOICE.test", "voice.TEST", True),
        ("http://voice.test:8001", "voice.test:8000", False),
        ("https://voice.test", "voice.test", False),
        ("http://evil.test", "voice.test", False),
        ("http://voice.test.evil.test", "voice.test", False),
        ("http://voice.test@evil.test", "voice.test", False),
        ("null", "voice.test", False),
        ("", "voice.test", False),
        ("http://[", "voice.test", False),
        ("http://voice.test:99999", "voice.test", False),
        ("https://app.example", "voice.test", True),
    ],
)
def test_pages_of_other_origins_are_refused(settings: Any, origin: str, host: str, allowed: bool) -> None:
    settings.VOICE_ALLOWED_ORIGINS = ["https://app.example"]
    with pytest.raises(AuthenticationFailed if allowed else PermissionDenied):
        authenticate(scope(token="none", headers={"origin": origin, "host": host}))


def test_behind_a_proxy_that_ends_tls_the_page_is_https(settings: Any) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    with pytest.raises(AuthenticationFailed):
        authenticate(scope(token="none", headers={"origin": "https://voice.test"}))


async def test_a_page_of_another_origin_is_told_so(home: House) -> None:
    client = home.connect(home.token(await make_tenant()), headers={"origin": "http://evil.test"})
    assert await refusal(client) == ("authorization_failed", 4403)


async def test_a_client_may_ask_to_be_refused_over_http(home: House) -> None:
    client = home.connect("rubbish", query="refuse=http", http=True)
    await client.hears(Closed)
    assert (client.accepted, client.http["status"], client.http["body"]["code"]) == (False, 401, "authentication_failed")
    elsewhere = home.connect("rubbish", query="refuse=http", http=True, headers={"origin": "http://evil.test"})
    await elsewhere.hears(Closed)
    assert (elsewhere.http["status"], elsewhere.http["body"]["code"]) == (403, "authorization_failed")
    home.node.draining = True
    tenant = await make_tenant()
    draining = home.connect(home.token(tenant), query="refuse=http", http=True)
    await draining.hears(Closed)
    assert draining.http["status"] == 503
    assert draining.http["headers"][b"retry-after"] == b"1"


async def test_where_the_server_cannot_refuse_over_http_the_handshake_is_just_closed(home: House) -> None:
    client = home.connect("rubbish", query="refuse=http")
    await client.hears(Closed)
    assert not client.accepted


async def test_an_unknown_path_is_closed_without_a_traceback(home: House) -> None:
    for http in (False, True):
        nowhere = {**scope(http=http), "path": "/ws/elsewhere/"}
        client = Client(URLRouter(websocket_urlpatterns), nowhere)
        await client.hears(Closed)
        await client.task
        assert not client.accepted
        assert client.http.get("status") == (404 if http else None)
    assert websocket_urlpatterns[-1].callback is unknown_path
