"""Who may enter which room, as tokens that LiveKit reads, and the names of rooms and people.

Owns: the names, both ways, and what a token allows. Refuses: network and clocks of others; a token is signed here and lives 60 s.
Limits: LiveKit takes a token for a minute longer than it lives, and any number of times; see the package's docstring.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import jwt
from livekit import api

TOKEN_S: Final = 60
ROOM_PREFIX: Final = "voice-"
USER_PREFIX: Final = "user-"
AGENT_PREFIX: Final = "agent-"
_LEEWAY_S: Final = 10


class WrongToken(Exception):
    """It lets nobody in as an agent. Its text says why, without the token."""


@dataclass(frozen=True, slots=True)
class AgentPass:
    """What an agent's token says.

    Attributes:
        room: The one room that it opens.
        identity: What the agent is called there.
    """

    room: str
    identity: str


def room_name(session_id: UUID) -> str:
    """Return the name of the session's room."""
    return f"{ROOM_PREFIX}{session_id}"


def session_of(room: str) -> UUID | None:
    """Return the session that a room is named after; None where it is not the name of a session's room, letter by letter."""
    try:
        session_id = UUID(room.removeprefix(ROOM_PREFIX))
    except ValueError:
        return None
    return session_id if room == room_name(session_id) else None


def user_identity(session_id: UUID) -> str:
    """Return what the session's user is called in the room."""
    return f"{USER_PREFIX}{session_id}"


def agent_identity(session_id: UUID) -> str:
    """Return what the echo agent is called in the room."""
    return f"{AGENT_PREFIX}{session_id}"


def for_user(session_id: UUID, *, key: str, secret: str) -> str:
    """Return a token that lets the session's user into its room: microphone and data, nothing else."""
    grants = api.VideoGrants(
        room_join=True,
        room=room_name(session_id),
        can_publish=True,
        can_publish_sources=["microphone"],
        can_publish_data=True,
        can_subscribe=True,
        can_update_own_metadata=False,
    )
    return _signed(api.AccessToken(key, secret).with_identity(user_identity(session_id)).with_grants(grants))


def for_agent(session_id: UUID, *, key: str, secret: str) -> str:
    """Return a token that lets an agent into the session's room, as a participant of kind AGENT; it may register no worker."""
    grants = api.VideoGrants(
        room_join=True,
        room=room_name(session_id),
        can_publish=True,
        can_publish_sources=["microphone"],
        can_publish_data=True,
        can_subscribe=True,
    )
    return _signed(api.AccessToken(key, secret).with_identity(agent_identity(session_id)).with_kind("agent").with_grants(grants))


def read_agent_token(token: str, keys: Mapping[str, str]) -> AgentPass:
    """Return what an agent's token opens.

    Args:
        token: As ``for_agent`` makes them.
        keys: API keys and their secrets.

    Raises:
        WrongToken: It was signed with none of them, has expired, or is not an agent's.
    """
    try:
        claims = decode(token, keys)
    except jwt.PyJWTError as error:
        raise WrongToken(type(error).__name__) from None
    video = claims.get("video")
    room, identity = (video.get("room"), claims.get("sub")) if isinstance(video, dict) else (None, None)
    joins = isinstance(video, dict) and video.get("roomJoin") is True
    if claims.get("kind") != "agent" or not joins or not isinstance(room, str) or not isinstance(identity, str) or not (room and identity):
        raise WrongToken("It is not an agent's.")
    return AgentPass(room=room, identity=identity)


def decode(token: str, keys: Mapping[str, str], *, leeway_s: int = _LEEWAY_S) -> Mapping[str, object]:
    """Return the claims of a token that one of the keys has signed; which one, the token says itself.

    Raises:
        jwt.PyJWTError: It is none, has expired, or its key is not among them.
    """
    issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
    secret = keys.get(issuer) if isinstance(issuer, str) else None
    if secret is None:
        raise jwt.InvalidIssuerError("unknown key")
    claims: Mapping[str, object] = jwt.decode(token, secret, algorithms=["HS256"], leeway=leeway_s, options={"require": ["exp", "iss"]})
    return claims


def _signed(token: api.AccessToken) -> str:
    return token.with_ttl(timedelta(seconds=TOKEN_S)).to_jwt()
