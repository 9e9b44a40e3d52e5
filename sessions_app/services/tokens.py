"""Connect tokens: what a client shows to have one session.

Owns: how a token is made and read. It is a JWT (HS256) whose key is derived from ``SECRET_KEY``, so a token of another platform is no
good here; its audience keeps it apart from every other kind of token; its ``jti`` is the id of the session that it is good for.
Refuses: saying which check failed, which would only help a forger; knowing whether a token was used, which the ledger knows by the session.
Limits: clocks of the platform's machines may differ by ``CLOCK_SKEW_S``.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

import jwt
import msgspec
import uuid_utils.compat
from django.conf import settings
from django.utils.crypto import salted_hmac

from sessions_app.services.exceptions import AuthenticationFailed

ISSUER: Final = "voiceplatform"
CONNECT_AUDIENCE: Final = "voice.connect"
CLOCK_SKEW_S: Final = 5
MAX_TOKEN_CHARS: Final = 8192  # a user of 255 characters, all of them escaped twice over, and room
MAX_USER_CHARS: Final = 255
_ALGORITHM: Final = "HS256"
_REQUIRED: Final = ["iss", "aud", "jti", "tid", "sub", "iat", "exp"]


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
    """What a good token says: this user of this tenant may have this session."""

    session_id: UUID
    tenant_id: int
    user: str


class _Payload(msgspec.Struct, frozen=True):
    jti: UUID
    tid: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    sub: str
    iat: int
    exp: int


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
    claims = {
        "iss": ISSUER,
        "aud": CONNECT_AUDIENCE,
        "jti": str(session_id),
        "tid": tenant_id,
        "sub": user,
        "iat": int(issued_at.timestamp()),
        "exp": int(expires_at.timestamp()),
    }
    return ConnectToken(token=jwt.encode(claims, _key(), algorithm=_ALGORITHM), expires_at=expires_at, session_id=session_id)


def read_connect_token(text: str, *, now: datetime | None = None) -> Claims:
    """Return what the token says.

    Args:
        text: The JWT as the client sent it.
        now: Aware; the present where it is left out.

    Raises:
        AuthenticationFailed: It is malformed, forged, expired, from the future, or of another platform or audience.
    """
    # Without this chain: a decoder's error may hold parts of the token.
    try:
        payload = _verified(text)
    except (jwt.PyJWTError, msgspec.MsgspecError, ValueError, RecursionError):
        raise AuthenticationFailed from None
    at = (now or datetime.now(UTC)).timestamp()
    if not (payload.iat - CLOCK_SKEW_S <= at < payload.exp and payload.jti.version == 7 and is_valid_user(payload.sub)):
        raise AuthenticationFailed
    return Claims(session_id=payload.jti, tenant_id=payload.tid, user=payload.sub)


def _verified(text: str) -> _Payload:
    if len(text) > MAX_TOKEN_CHARS:
        raise ValueError("too long")
    claims = jwt.decode(
        text,
        _key(),
        algorithms=[_ALGORITHM],
        audience=CONNECT_AUDIENCE,
        issuer=ISSUER,
        # Times are compared by the caller, with the clock that it was given.
        options={"require": _REQUIRED, "strict_aud": True, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )
    return msgspec.convert(claims, _Payload)


def _key() -> bytes:
    return salted_hmac("voice.tokens", CONNECT_AUDIENCE, algorithm="sha256").digest()


def socket_url(*, host: str, secure: bool) -> str:
    """Return where a client with a connect token connects; ``host`` is the one, with its port, that the server was asked by."""
    return f"{'wss' if secure else 'ws'}://{host}/ws/voice/"
