"""Connect and resume tokens: what a client shows to have one session, and to come back to it.

Owns: how a token is made and read. It is a JWT (HS256) whose key is derived from ``SECRET_KEY`` for its audience, so a token of another
platform or of another kind is no good here; its ``jti`` is the id of the session that it is good for. A connect token expires; a resume
token has the number of the connection that it was given to instead, and is good for as long as the ledger says.
Refuses: saying which check failed, which would only help a forger; knowing whether a token was used, which the ledger knows by the session.
Limits: clocks of the platform's machines may differ by ``CLOCK_SKEW_S``.
"""

from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, TypeVar
from uuid import UUID

import jwt
import msgspec
import uuid_utils.compat
from django.conf import settings
from django.utils.crypto import salted_hmac

from sessions_app.services.exceptions import AuthenticationFailed

ISSUER: Final = "voiceplatform"
CONNECT_AUDIENCE: Final = "voice.connect"
RESUME_AUDIENCE: Final = "voice.resume"
CLOCK_SKEW_S: Final = 5
MAX_TOKEN_CHARS: Final = 8192  # a user of 255 characters, all of them escaped twice over, and room
MAX_USER_CHARS: Final = 255
_ALGORITHM: Final = "HS256"
_REQUIRED: Final = ["iss", "aud", "jti", "tid", "sub", "iat"]


@dataclass(frozen=True, slots=True)
class ConnectToken:
    """A token that was just made.

    Attributes:
        token: The JWT; not shown in ``repr``.
        expires_at: Aware, UTC.
        session_id: The session that it is good for.
    """

    token: str = field(repr=False)
    expires_at: datetime
    session_id: UUID


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says: this user of this tenant may have this session.

    ``connection`` is the number of the connection that a resume token was given to; None for a connect token.
    """

    session_id: UUID
    tenant_id: int
    user: str
    connection: int | None = None


class _Payload(msgspec.Struct, frozen=True):
    jti: UUID
    tid: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    sub: str
    iat: int


class _Connect(_Payload, frozen=True):
    exp: int


class _Resume(_Payload, frozen=True):
    con: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class _Addressed(msgspec.Struct, frozen=True):
    aud: str = ""


_P = TypeVar("_P", bound=_Payload)


def is_valid_user(user: str) -> bool:
    """Return whether this can name a user: 1 to 255 characters that can be stored, none of them a control character."""
    return 0 < len(user) <= MAX_USER_CHARS and all(ch >= " " and ch != "\x7f" and not "\ud800" <= ch <= "\udfff" for ch in user)


def issue_connect_token(*, tenant_id: int, user: str, now: datetime) -> ConnectToken:
    """Make a token for one session of this user.

    Args:
        tenant_id: The tenant that answers for the user.
        user: The tenant's own name for the user, see ``is_valid_user``.
        now: Aware.

    Raises:
        ValueError: The user's name is empty, too long or cannot be stored.
    """
    if not is_valid_user(user):
        raise ValueError(f"A user's name has 1 to {MAX_USER_CHARS} characters, none of them a control character.")
    session_id = uuid_utils.compat.uuid7()
    issued_at = now.astimezone(UTC).replace(microsecond=0)
    expires_at = issued_at + timedelta(seconds=settings.VOICE_CONNECT_TOKEN_S)
    claims = _common(CONNECT_AUDIENCE, session_id, tenant_id, user, issued_at) | {"exp": int(expires_at.timestamp())}
    return ConnectToken(token=_signed(claims, CONNECT_AUDIENCE), expires_at=expires_at, session_id=session_id)


def issue_resume_token(claims: Claims, *, connection: int, now: datetime | None = None) -> str:
    """Make the token with which the client of this connection may come back; ``claims`` are those it was let in with."""
    said = _common(RESUME_AUDIENCE, claims.session_id, claims.tenant_id, claims.user, now or datetime.now(UTC))
    return _signed(said | {"con": connection}, RESUME_AUDIENCE)


def _common(audience: str, session_id: UUID, tenant_id: int, user: str, issued_at: datetime) -> dict[str, object]:
    said = {"iss": ISSUER, "aud": audience, "jti": str(session_id), "tid": tenant_id, "sub": user}
    return {**said, "iat": int(issued_at.timestamp())}


def _signed(claims: dict[str, object], audience: str) -> str:
    return jwt.encode(claims, _key(audience), algorithm=_ALGORITHM)


def read_token(text: str, *, now: datetime | None = None) -> Claims:
    """Return what a connect or a resume token says; its audience, which its signature covers, tells which it is.

    Args:
        text: The JWT as the client sent it.
        now: Aware; the present where it is left out.

    Raises:
        AuthenticationFailed: It is neither, or not good.
    """
    return read_resume_token(text) if _audience(text) == RESUME_AUDIENCE else read_connect_token(text, now=now)


def _audience(text: str) -> str:
    """Return what the token says that it is for, which nobody has checked yet; empty where it says nothing."""
    claims = text[:MAX_TOKEN_CHARS].split(".")[1:2]
    try:
        return msgspec.json.decode(urlsafe_b64decode(claims[0] + "==") if claims else b"{}", type=_Addressed).aud
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


def read_resume_token(text: str) -> Claims:
    """Return what the token says; whether it is still good is for the ledger to say.

    Raises:
        AuthenticationFailed: It is malformed, forged, or of another platform or audience.
    """
    payload = _verified(text, RESUME_AUDIENCE, _Resume)
    return Claims(session_id=payload.jti, tenant_id=payload.tid, user=payload.sub, connection=payload.con)


def read_connect_token(text: str, *, now: datetime | None = None) -> Claims:
    """Return what the token says.

    Args:
        text: The JWT as the client sent it.
        now: Aware; the present where it is left out.

    Raises:
        AuthenticationFailed: It is malformed, forged, expired, from the future, or of another platform or audience.
    """
    payload = _verified(text, CONNECT_AUDIENCE, _Connect)
    at = (now or datetime.now(UTC)).timestamp()
    if not payload.iat - CLOCK_SKEW_S <= at < payload.exp:
        raise AuthenticationFailed
    return Claims(session_id=payload.jti, tenant_id=payload.tid, user=payload.sub)


def _verified(text: str, audience: str, form: type[_P]) -> _P:
    # Without the chain of what went wrong: a decoder's error may hold parts of the token.
    try:
        payload = _decoded(text, audience, form)
    except (jwt.PyJWTError, msgspec.MsgspecError, ValueError, RecursionError):
        raise AuthenticationFailed from None
    if payload.jti.version != 7 or not is_valid_user(payload.sub):
        raise AuthenticationFailed
    return payload


def _decoded(text: str, audience: str, form: type[_P]) -> _P:
    if len(text) > MAX_TOKEN_CHARS:
        raise ValueError("too long")
    claims = jwt.decode(
        text,
        _key(audience),
        algorithms=[_ALGORITHM],
        audience=audience,
        issuer=ISSUER,
        # Times are compared by the caller, with the clock that it was given.
        options={"require": _REQUIRED, "strict_aud": True, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )
    return msgspec.convert(claims, form)


def _key(audience: str) -> bytes:
    return _derived_key(settings.SECRET_KEY, audience)


@lru_cache(maxsize=8)
def _derived_key(secret: str, audience: str) -> bytes:
    return salted_hmac("voice.tokens", audience, secret=secret, algorithm="sha256").digest()


def socket_url(*, host: str, secure: bool) -> str:
    """Return where a client with a connect token connects; ``host`` is the one, with its port, that the server was asked by."""
    return f"{'wss' if secure else 'ws'}://{host}/ws/voice/"
