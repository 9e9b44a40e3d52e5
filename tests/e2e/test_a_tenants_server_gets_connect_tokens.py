"""The HTTP API with a real API key, from the key to a call."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tenants import services as tenant_services
from tenants.models import ApiKey, Tenant
from tests.e2e.client import Call
from tests.e2e.rows import record
from tests.e2e.server import Server, manage

NewTenant = Callable[..., Tenant]


def ask(server: Server, key: str | None, body: object) -> tuple[int, dict[str, str], dict[str, str]]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key is not None else {})
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, answered, content = server.request("POST", "/api/v1/connect-tokens", headers=headers, body=raw)
    assert answered["content-type"].startswith("application/json")
    return status, answered, json.loads(content)


def key_of(tenant: Tenant) -> str:
    return manage("issue_api_key", tenant.slug).strip()


def test_a_key_buys_a_token_and_the_token_a_call(server: Server, dial: Callable[..., Call], new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    status, headers, answer = ask(server, key_of(tenant), {"user": "ann@shop"})
    assert status == 201
    assert headers["cache-control"] == "no-store"
    assert answer.keys() == {"token", "expires_at", "ws_url"}
    assert answer["ws_url"] == server.socket_url
    expires = datetime.fromisoformat(answer["expires_at"])
    assert expires.tzinfo == UTC
    assert 30 < (expires - datetime.now(UTC)).total_seconds() <= 60
    session = record(dial(token=answer["token"]).start()["session_id"])
    assert (session.tenant, session.user, session.state) == (tenant, "ann@shop", "active")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", {}, {"user": ""}, {"user": 7}, {"user": "x" * 256}, {"user": "a\x00b"}, {"user": "ann", "admin": True}]
)
def test_a_body_that_is_wrong_is_400(server: Server, new_tenant: NewTenant, body: object) -> None:
    status, _, answer = ask(server, key_of(new_tenant()), body)
    assert (status, answer["code"]) == (400, "invalid_request")
    assert answer["message"]


def test_a_key_that_is_missing_wrong_or_revoked_is_401(server: Server, new_tenant: NewTenant) -> None:
    key = key_of(new_tenant())
    for wrong in (None, "", "nonsense", key[:-1], "vk_" + key[:2:-1]):
        status, headers, answer = ask(server, wrong, {"user": "ann"})
        assert (status, answer["code"]) == (401, "authentication_failed")
        assert headers["www-authenticate"] == "Bearer"
    assert ask(server, key, {"user": "ann"})[0] == 201
    tenant_services.revoke_api_key(key_id=ApiKey.objects.latest("created_at").pk)
    assert ask(server, key, {"user": "ann"})[0] == 401


def test_a_suspended_tenant_is_403(server: Server, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    key = key_of(tenant)
    tenant_services.set_status(tenant=tenant, status=Tenant.Status.SUSPENDED)
    status, _, answer = ask(server, key, {"user": "ann"})
    assert (status, answer["code"]) == (403, "tenant_suspended")


def test_only_post_is_taken(server: Server) -> None:
    status, headers, _ = server.request("GET", "/api/v1/connect-tokens")
    assert (status, headers["allow"]) == (405, "POST")
