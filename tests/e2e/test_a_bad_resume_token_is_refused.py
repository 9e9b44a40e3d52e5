"""Resume tokens that are forged, foreign, stale or spent are refused with 4401, and the session that they name is not disturbed."""

from collections.abc import Callable
from typing import Any

import jwt
import pytest
from django.test import override_settings

from sessions_app.models import SessionEvent
from sessions_app.services import tokens
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import over, record, slots
from tests.e2e.server import wait_until

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]
Forge = Callable[[str], str]
FRAME = b"\x05" * 960


def _claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _signed(claims: dict[str, Any], audience: str = tokens.RESUME_AUDIENCE) -> str:
    return jwt.encode(claims, tokens._key(audience), algorithm="HS256")


def _changed(token: str) -> str:
    head, body, signature = token.split(".")
    return f"{head}.{body}.{signature[::-1]}"


def _unsigned(token: str) -> str:
    return jwt.encode(_claims(token), "", algorithm="none")


def _of_another_platform(token: str) -> str:
    with override_settings(SECRET_KEY="another platform's own secret, as long as it should be"):
        return _signed(_claims(token))


def _signed_as_a_connect_token(token: str) -> str:
    return _signed(_claims(token), tokens.CONNECT_AUDIENCE)


def _without_a_number(token: str) -> str:
    return _signed({name: value for name, value in _claims(token).items() if name != "con"})


def _of_another_tenant(token: str) -> str:
    return _signed({**_claims(token), "tid": _claims(token)["tid"] + 1})


def _of_another_user(token: str) -> str:
    return _signed({**_claims(token), "sub": "eve"})


def _of_a_session_that_never_was(token: str) -> str:
    return _signed({**_claims(token), "jti": "01920000-0000-7000-8000-000000000000"})


def _not_given_out_yet(token: str) -> str:
    return _signed({**_claims(token), "con": _claims(token)["con"] + 1})


BAD = [
    _changed, _unsigned, _of_another_platform, _signed_as_a_connect_token, _without_a_number, _of_another_tenant, _of_another_user,
    _of_a_session_that_never_was, _not_given_out_yet,
]  # fmt: skip


def refused(call: Call) -> None:
    assert call.message("session.rejected")["code"] == "authentication_failed"
    assert call.closed() == 4401


@pytest.mark.parametrize("forge", BAD)
def test_a_bad_one_is_refused_and_the_call_goes_on(dial: Dial, new_tenant: NewTenant, forge: Forge) -> None:
    tenant = new_tenant()
    call = dial(tenant)
    started = call.start()
    refused(dial(token=forge(started["resume_token"])))
    assert call.exchange([FRAME] * 5) == [FRAME] * 5
    assert record(started["session_id"]).state == "active"
    assert slots(tenant) == 1
    call.stop()


def test_a_stolen_one_is_refused_and_recorded_once_its_owner_has_come_back(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant()
    call = dial(tenant)
    started = call.start()
    call.drop()
    back = dial(token=started["resume_token"])
    resumed = back.message("session.resumed")
    assert back.exchange([FRAME]) == [FRAME]
    recorded = SessionEvent.objects.filter(session_id=started["session_id"], reason="authentication_failed")

    def stale() -> bool:
        """It is good until the ledger has heard that the owner spoke; who used it until then is who has the session."""
        thief = dial(token=started["resume_token"])
        answer = thief.hear()
        assert isinstance(answer, dict)
        if answer["type"] == "session.resumed":
            thief.say(FRAME)
            resumed.update(answer)
        return bool(answer["type"] == "session.rejected")

    wait_until(stale)
    event = recorded.get()
    assert event.old == event.new
    owner = dial(token=resumed["resume_token"])
    assert owner.message("session.resumed")["session_id"] == started["session_id"]
    assert owner.exchange([FRAME]) == [FRAME]
    assert slots(tenant) == 1
    owner.stop()


def test_one_of_a_session_that_is_over_is_spent(dial: Dial, new_tenant: NewTenant) -> None:
    call = dial(new_tenant())
    started = call.start()
    call.stop()
    over(started["session_id"])
    refused(dial(token=started["resume_token"]))
