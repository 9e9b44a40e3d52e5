"""``POST /api/v1/connect-tokens``: what a tenant's server gets, and how it is refused."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sessions_app.api import views
from sessions_app.services import tokens
from tenants import services as tenant_services
from tenants.models import ApiKey, Tenant

URL = "/api/v1/connect-tokens"
pytestmark = pytest.mark.django_db


@pytest.fixture
def tenant() -> Tenant:
    return tenant_services.create_tenant(slug="acme", name="Acme")


@pytest.fixture
def key(tenant: Tenant) -> str:
    return tenant_services.issue_api_key(tenant=tenant, name="server")


@pytest.fixture(autouse=True)
def fresh_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_rates", views._Rates())


@pytest.fixture
def client() -> Iterator[Client]:
    yield Client(enforce_csrf_checks=True)


def post(client: Client, key: str | None, body: Any, **extra: Any) -> Any:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(URL, raw, content_type="application/json", headers=headers, **extra)


def test_a_token_is_good_for_one_session_of_the_user(client: Client, key: str, tenant: Tenant) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    answer = post(client, key, {"user": "ann"}, HTTP_HOST="localhost:8123")
    assert answer.status_code == 201
    body = answer.json()
    assert set(body) == {"token", "expires_at", "ws_url"}
    assert body["ws_url"] == "ws://localhost:8123/ws/voice/"
    assert body["expires_at"].endswith("Z")
    assert before + timedelta(seconds=60) <= datetime.fromisoformat(body["expires_at"]) <= before + timedelta(seconds=65)
    claims = tokens.read_connect_token(body["token"])
    assert (claims.tenant_id, claims.user) == (tenant.pk, "ann")
    assert answer["Cache-Control"] == "no-store"


def test_over_https_the_socket_is_secure_too(client: Client, key: str) -> None:
    assert post(client, key, {"user": "ann"}, secure=True).json()["ws_url"].startswith("wss://")


@pytest.mark.parametrize("presented", [None, "", "vk_nothing_here", "x" * 5_000])
def test_without_a_good_key_the_answer_is_401(client: Client, presented: str | None) -> None:
    answer = post(client, presented, {"user": "ann"})
    assert (answer.status_code, answer.json()["code"]) == (401, "authentication_failed")
    assert answer["WWW-Authenticate"] == "Bearer"


def test_a_revoked_key_and_another_scheme_are_401(client: Client, key: str) -> None:
    answer = client.post(URL, b"{}", content_type="application/json", headers={"Authorization": f"Basic {key}"})
    assert answer.status_code == 401
    tenant_services.revoke_api_key(key_id=ApiKey.objects.get().pk)
    assert post(client, key, {"user": "ann"}).status_code == 401


def test_a_suspended_tenant_is_403(client: Client, key: str, tenant: Tenant) -> None:
    tenant_services.set_status(tenant=tenant, status=Tenant.Status.SUSPENDED)
    answer = post(client, key, {"user": "ann"})
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_suspended")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", {}, {"user": 5}, {"user": ""}, {"user": None}, {"user": "a" * 256}, {"user": "a\x00"},
             {"user": "a", "x": 1}, b'{"user":"\\ud800"}', b"[" * 8_000]
)  # fmt: skip
def test_a_wrong_body_is_400(client: Client, key: str, body: Any) -> None:
    answer = post(client, key, body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert answer.json()["message"]


def test_a_large_body_is_413_and_another_method_405(client: Client, key: str) -> None:
    answer = post(client, key, {"user": "a" * 9_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "invalid_request")
    answer = client.get(URL, headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer["Allow"], answer.json()["code"]) == (405, "POST", "invalid_request")


def test_a_key_that_asks_too_often_is_429(client: Client, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "TOKENS_AT_ONCE", 2.0)
    monkeypatch.setattr(views, "TOKENS_PER_S", 0.0)
    assert [post(client, key, {"user": "ann"}).status_code for _ in range(3)] == [201, 201, 429]
    refused = post(client, key, {"user": "ann"})
    assert (refused.json()["code"], refused["Retry-After"]) == ("rate_limit_exceeded", "1")


@hypothesis_settings(max_examples=30, deadline=None)
@given(body=st.binary(max_size=200))
def test_no_body_makes_it_fail(body: bytes) -> None:
    from django.test import RequestFactory

    from sessions_app.api.errors import ApiError

    try:
        user = views._user(RequestFactory().post(URL, body, content_type="application/json"))
    except ApiError as error:
        assert error.status == 400
    else:
        assert tokens.is_valid_user(user)
