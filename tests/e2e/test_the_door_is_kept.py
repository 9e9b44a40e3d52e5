"""Who may open the socket, in which words, and for how long one may say nothing."""

import json
import time
from collections.abc import Callable

import pytest
from websockets.exceptions import InvalidStatus

from sessions_app.models import Session
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import new_token
from tests.e2e.server import Server

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]


def test_a_page_of_another_origin_may_not_connect(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    call = dial(tenant, origin="https://elsewhere.example")
    assert call.message("session.rejected")["code"] == "authorization_failed"
    assert call.closed() == 4403
    assert not Session.objects.filter(tenant=tenant).exists()


def test_a_page_of_the_servers_own_origin_may_connect(server: Server, dial: Dial, new_tenant: NewTenant) -> None:
    dial(new_tenant(), origin=server.origin).start()


def test_who_says_nothing_is_shown_out_after_five_seconds(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    call = dial(tenant)
    opened = time.monotonic()
    assert call.message("error")["code"] == "invalid_message"
    assert call.closed() == 4400
    assert 4.5 < time.monotonic() - opened < 20
    assert not Session.objects.filter(tenant=tenant).exists()


def test_who_does_not_speak_the_protocol_is_told(dial: Dial, new_tenant: NewTenant) -> None:
    token = new_token(new_tenant())
    call = dial(subprotocols=[], headers={"Authorization": f"Bearer {token}"})
    assert call.message("error")["code"] == "invalid_message"
    assert call.closed() == 4400


def test_the_tenth_error_ends_the_conversation(dial: Dial, new_tenant: NewTenant) -> None:
    call = dial(new_tenant())
    call.start()
    for _ in range(10):
        call.say({"type": "nonsense"})
    for _ in range(10):
        assert call.message("error")["code"] == "invalid_message"
    assert call.closed() == 4400


@pytest.mark.parametrize("with_token", [False, True])
def test_a_client_that_asks_for_it_is_refused_over_http(server: Server, dial: Dial, new_tenant: NewTenant, with_token: bool) -> None:
    origin = "https://elsewhere.example" if with_token else None
    with pytest.raises(InvalidStatus) as refused:
        dial(new_tenant() if with_token else None, query="?refuse=http", origin=origin)
    response = refused.value.response
    if server.kind == "daphne":
        assert (response.status_code, bytes(response.body or b"")) == (403, b""), "daphne has one refusal for all"
        return
    told = (response.status_code, json.loads(response.body or b"{}")["code"])
    assert told == ((403, "authorization_failed") if with_token else (401, "authentication_failed"))


def test_a_wrong_path_is_not_found(server: Server, new_tenant: NewTenant) -> None:
    with pytest.raises(InvalidStatus) as refused:
        Call(server.socket_url.replace("/ws/voice/", "/ws/else/"), new_token(new_tenant()))
    assert refused.value.response.status_code == (403 if server.kind == "daphne" else 404)
