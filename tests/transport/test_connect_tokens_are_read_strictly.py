"""A token is good here, for its minute, as it was made; anything else is one refusal that says nothing."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from sessions_app.services import tokens
from sessions_app.services.exceptions import AuthenticationFailed

NOW = datetime(2026, 3, 1, 12, 0, 0, 700_000, tzinfo=UTC)
users = st.text(min_size=1, max_size=255).filter(tokens.is_valid_user)


def issue(user: str = "ann", tenant_id: int = 7) -> tokens.ConnectToken:
    return tokens.issue_connect_token(tenant_id=tenant_id, user=user, now=NOW)


def forge(key: bytes | None = None, algorithm: str = "HS256", **changes: Any) -> str:
    """A token with the platform's own key, but with other claims (None: left out)."""
    good = jwt.decode(issue().token, options={"verify_signature": False})
    claims = {name: value for name, value in {**good, **changes}.items() if value is not None}
    return jwt.encode(claims, tokens._key(tokens.CONNECT_AUDIENCE) if key is None else key, algorithm=algorithm)


def refused(text: str, now: datetime = NOW) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        tokens.read_connect_token(text, now=now)
    assert str(caught.value) == "The credential is missing, wrong, expired or spent."
    assert caught.value.__cause__ is None


@given(user=users, tenant_id=st.integers(1, 2**63 - 1))
def test_what_was_issued_is_read_back(user: str, tenant_id: int) -> None:
    token = issue(user, tenant_id)
    claims = tokens.read_connect_token(token.token, now=NOW)
    assert (claims.user, claims.tenant_id, claims.session_id) == (user, tenant_id, token.session_id)
    assert claims.session_id.version == 7
    assert token.expires_at == NOW.replace(microsecond=0) + timedelta(seconds=60)


@given(text=st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_any_other_text_is_refused(text: str) -> None:
    refused(text)


@given(data=st.data())
def test_a_token_with_one_character_changed_is_refused(data: st.DataObject) -> None:
    token = issue().token
    at = data.draw(st.integers(0, len(token) - 1).filter(lambda index: token[index] != "."))
    other = data.draw(st.sampled_from("ABCxyz019-_").filter(lambda ch: ch != token[at]))
    changed = token[:at] + other + token[at + 1 :]
    # The last character of a part may hold bits that mean nothing; the same bytes are the same token.
    if [_bytes(part) for part in changed.split(".")] != [_bytes(part) for part in token.split(".")]:
        refused(changed)


def _bytes(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.mark.parametrize("age_s", [61, 3600, -30])
def test_an_expired_or_future_token_is_refused(age_s: int) -> None:
    refused(issue().token, NOW + timedelta(seconds=age_s))


@pytest.mark.parametrize("name", ["iss", "aud", "jti", "tid", "sub", "iat", "exp"])
def test_a_token_without_one_of_its_claims_is_refused(name: str) -> None:
    without: dict[str, Any] = {name: None}
    refused(forge(**without))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody"},
        {"aud": "voice.resume"},
        {"aud": ["voice.connect", "other"]},
        {"jti": "1"},
        {"jti": "6f1c1f0e-5f0b-4d3c-9d0a-1f2e3d4c5b6a"},
        {"tid": "7"},
        {"tid": 7.5},
        {"tid": True},
        {"tid": 0},
        {"sub": ""},
        {"sub": "a" * 256},
        {"sub": "a\x00b"},
        {"exp": "tomorrow"},
        {"iat": 1.5},
    ],
)
def test_a_signed_token_with_a_wrong_claim_is_refused(changes: dict[str, Any]) -> None:
    refused(forge(**changes))


def test_a_token_of_another_platform_is_refused() -> None:
    with override_settings(SECRET_KEY="another platform's key, which is as long as ours"):
        foreign = issue().token
    refused(foreign)


def test_only_the_one_algorithm_is_read() -> None:
    refused(forge(algorithm="HS512", key=tokens._key(tokens.CONNECT_AUDIENCE) * 2))
    body = forge().split(".")[1]
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).decode().rstrip("=")
    refused(f"{header}.{body}.")


def test_an_oversized_or_deeply_nested_token_is_refused() -> None:
    refused("a" * 100_000)
    header = issue().token.split(".")[0]
    deep = base64.urlsafe_b64encode(b"[" * 5_000).decode().rstrip("=")
    refused(f"{header}.{deep}.c2ln")


@pytest.mark.parametrize("user", ["", "a" * 256, "a\nb", "\ud800", "\x00", "\x7f"])
def test_a_user_that_cannot_be_stored_gets_no_token(user: str) -> None:
    with pytest.raises(ValueError, match="user's name"):
        issue(user)


def test_the_longest_user_fits_in_a_token() -> None:
    assert tokens.read_connect_token(issue("\U0001f600" * 255).token, now=NOW).user == "\U0001f600" * 255


def test_a_token_does_not_show_in_a_repr() -> None:
    token = issue()
    assert token.token not in repr(token)
