"""What LiveKit tells by webhooks: checked, cleaned of secrets, and read into the platform's words. Pure.

Owns: the signature (several keys, for their rotation), what is taken out before anybody keeps an event, and the meaning of the fields.
Refuses: order and repetition. A signature is good for five minutes and has no number of its own, so that only the event's ``id`` tells a
replay.
Limits: the body is protojson, in which zeros and empty fields are left out: the first value of an enumeration is an absent one.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import jwt

from sessions_app.providers.base import Participant, Role, RoomEvent
from sessions_app.providers.exceptions import WrongSignature
from sessions_app.providers.livekit import tokens

# Secrets of LiveKit's own messages, in both spellings of protojson, compared without case and underscores.
_SECRET_FIELDS: Final = frozenset({"turnpassword", "streamkey", "password", "secret", "accesskey", "sessiontoken", "token", "credentials"})
_LEEWAY_S: Final = 60
_DEEPEST: Final = 32
_KINDS: Final = {
    "room_started": "room_started",
    "room_finished": "room_finished",
    "participant_joined": "participant_joined",
    "participant_left": "participant_left",
    "participant_connection_aborted": "participant_aborted",
    "track_published": "track_published",
    "track_unpublished": "track_unpublished",
}


def verify(body: bytes, authorization: str, keys: Mapping[str, str]) -> dict[str, object]:
    """Return the event that a body holds, with nothing taken out yet.

    Args:
        body: As it came, byte by byte.
        authorization: The header: a token, without ``Bearer``.
        keys: API keys and their secrets, whose signatures are good.

    Raises:
        WrongSignature: None of the keys has signed this body, or the signature is too old, or it holds no event.
    """
    try:
        claims = tokens.decode(authorization.strip().removeprefix("Bearer ").strip(), keys, leeway_s=_LEEWAY_S)
    except jwt.PyJWTError as error:
        raise WrongSignature(f"The signature is not good: {type(error).__name__}.") from None
    signed = claims.get("sha256")
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    if not isinstance(signed, str) or not hmac.compare_digest(signed.encode(), digest.encode()):
        raise WrongSignature("The signature is of another body.")
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise WrongSignature("The body is no JSON.") from None
    if not isinstance(event, dict):
        raise WrongSignature("The body is no JSON object.")
    return event


def scrub(event: Mapping[str, object]) -> dict[str, object]:
    """Return a copy that may be kept: without secrets, and without what PostgreSQL cannot store (NUL, half a surrogate pair)."""
    cleaned: dict[str, object] = _cleaned(event, 0)
    return cleaned


def read(event: Mapping[str, object]) -> RoomEvent:
    """Return what the event means; what is missing in it, or of another form, is empty."""
    name = _text(event, "event")
    room = _object(event, "room")
    participant = _object(event, "participant")
    room_name = _text(room, "name")
    session_id = tokens.session_of(room_name)
    kind = _KINDS.get(name, "other")
    return RoomEvent(
        id=_text(event, "id"),
        kind=kind,
        name=name,
        at=_time(event, "createdAt"),
        room=room_name,
        room_sid=_text(room, "sid"),
        session_id=session_id,
        participant=_participant(participant, session_id, _object(event, "track"), kind) if participant else None,
        reason=_text(participant, "disconnectReason") or _text(event, "roomEndReason"),
    )


def role_of(identity: str, session_id: UUID | None, *, is_agent: bool) -> Role:
    """Return who somebody is in this session's room."""
    if session_id is not None and identity == tokens.user_identity(session_id):
        return "user"
    return "agent" if is_agent else "other"


def _participant(told: Mapping[str, object], session_id: UUID | None, track: Mapping[str, object], kind: str) -> Participant:
    identity = _text(told, "identity")
    # Events of tracks tell nothing of a participant but its names. LiveKit calls the agents that it dispatches "agent-…", as we call ours.
    is_short = "joinedAt" not in told and "state" not in told
    is_agent = _text(told, "kind") == "AGENT" or (is_short and identity.startswith(tokens.AGENT_PREFIX))
    tracks = told.get("tracks")
    sounds = [_is_sound(each) for each in tracks if isinstance(each, dict)] if isinstance(tracks, list) else []
    return Participant(
        sid=_text(told, "sid"),
        identity=identity,
        role=role_of(identity, session_id, is_agent=is_agent),
        active=_text(told, "state") == "ACTIVE",
        joined_at=_time(told, "joinedAt"),
        has_audio=any(sounds) or (kind == "track_published" and bool(track) and _is_sound(track)),
    )


def _is_sound(track: Mapping[str, object]) -> bool:
    return track.get("type", "AUDIO") == "AUDIO"


def _text(holder: Mapping[str, object], name: str) -> str:
    value = holder.get(name, "")
    return value if isinstance(value, str) else ""


def _object(holder: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _time(holder: Mapping[str, object], name: str) -> datetime | None:
    """Return a time in whole seconds, better where there are milliseconds beside it; protojson writes such numbers as texts."""
    for field, unit in ((f"{name}Ms", 1000), (name, 1)):
        value = holder.get(field)
        try:
            number = int(value) if isinstance(value, int | str) else 0
            if number > 0:
                return datetime.fromtimestamp(number / unit, UTC)
        except (ValueError, OverflowError, OSError):
            continue
    return None


def _cleaned(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        return None
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {
            _cleaned(name, depth): _cleaned(each, depth + 1)
            for name, each in value.items()
            if name.replace("_", "").lower() not in _SECRET_FIELDS
        }
    if isinstance(value, list):
        return [_cleaned(each, depth + 1) for each in value]
    return value
