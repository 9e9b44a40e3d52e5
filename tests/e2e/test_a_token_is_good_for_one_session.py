"""Connect tokens at the real door: whose are refused, and that a good one is good once."""

from collections.abc import Callable
from datetime import timedelta

import jwt
import pytest
from django.test import override_settings
from django.utils import timezone

from sessions_app.models import Session
from sessions_app.services import tokens
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import new_token, over, slots, states
from tests.e2e.server import manage

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]
Forge = Callable[[Tenant], str]


def _expired(tenant: Tenant) -> str:
    return tokens.issue_connect_token(tenant_id=tenant.pk, user="ann", now=timezone.now() - timedelta(minutes=5)).token


def _of_another_platform(tenant: Tenant) -> str:
    with override_settings(SECRET_KEY="another platform's own secret, as long as it should be"):
        return new_token(tenant)


def _of_another_audience(tenant: Tenant) -> str:
    claims = jwt.decode(new_token(tenant), options={"verify_signature": False})
    return jwt.encode({**claims, "aud": "voice.resume"}, tokens._key(tokens.CONNECT_AUDIENCE), algorithm="HS256")


def _unsigned(tenant: Tenant) -> str:
    claims = jwt.decode(new_token(tenant), options={"verify_signature": False})
    return jwt.encode(claims, "", algorithm="none")


def _changed(tenant: Tenant) -> str:
    head, body, signature = new_token(tenant).split(".")
    return f"{head}.{body}.{signature[::-1]}"


def _nonsense(tenant: Tenant) -> str:
    return "nonsense"


BAD = [_expired, _of_another_platform, _of_another_audience, _unsigned, _changed, _nonsense]


@pytest.mark.parametrize("forge", BAD)
def test_a_bad_token_is_refused_without_a_row(dial: Dial, new_tenant: NewTenant, forge: Forge) -> None:
    tenant = new_tenant()
    call = dial(token=forge(tenant))
    assert call.message("session.rejected")["code"] == "authentication_failed"
    assert call.closed() == 4401
    assert not Session.objects.filter(tenant=tenant).exists()


def test_no_token_is_a_bad_token(dial: Dial) -> None:
    call = dial()
    assert call.message("session.rejected")["code"] == "authentication_failed"
    assert call.closed() == 4401


def test_the_token_may_come_in_a_header_and_not_in_the_address(dial: Dial, new_tenant: NewTenant) -> None:
    token = new_token(new_tenant())
    dial(headers={"Authorization": f"Bearer {token}"}).start()
    assert dial(query=f"?token={new_token(new_tenant())}").message("session.rejected")["code"] == "authentication_failed"


def test_a_token_is_spent_when_its_session_is_over(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    token = new_token(tenant)
    call = dial(token=token)
    session_id = call.start()["session_id"]
    call.stop()
    over(session_id)
    refusal, code = dial(token=token).refused()
    assert (refusal["code"], code) == ("authentication_failed", 4401)
    assert Session.objects.filter(tenant=tenant).count() == 1


def test_a_token_is_spent_when_its_attempt_was_refused(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(max_concurrent_sessions=0)
    token = new_token(tenant)
    assert dial(token=token).refused()[1] == 4429
    manage("set_quota", tenant.slug, "max_concurrent_sessions=1")
    assert dial(token=token).refused()[1] == 4401
    dial(tenant).start()


def test_used_twice_at_once_it_takes_one_slot_and_the_newer_connection_has_the_session(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    token = new_token(tenant)
    first = dial(token=token)
    session_id = first.start()["session_id"]
    second = dial(token=token)
    assert second.start()["session_id"] == session_id
    assert first.closed() == 4409
    assert slots(tenant) == 1
    assert second.exchange([b"\x07" * 960]) == [b"\x07" * 960]
    second.stop()
    assert over(session_id).reason == "completed"
    assert states(session_id).count("starting") == 1
