"""What is said on the WebSocket: client messages are read strictly, server messages written.

Owns: the shape and the limits of every text frame. Whatever a client sends, reading answers with a message or ``InvalidMessage``.
Refuses: fields that are not in the protocol, values that the database could not store, nesting that no honest client needs.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

MAX_TEXT_BYTES: Final = 64 * 1024
MAX_AUDIO_BYTES: Final = 64 * 1024
MAX_METADATA_BYTES: Final = 4 * 1024  # as compact JSON
MAX_METADATA_DEPTH: Final = 16
_EXACT: Final = 2**53  # integers up to this survive every client's JSON

BackendName = Annotated[str, msgspec.Meta(max_length=50, pattern=r"^[A-Za-z0-9_-]*$")]
Mark = Annotated[int, msgspec.Meta(ge=-_EXACT, le=_EXACT)] | float | Annotated[str, msgspec.Meta(max_length=64)] | None


class InvalidMessage(Exception):
    """The message cannot be understood."""


class SessionStart(msgspec.Struct, frozen=True, tag_field="type", tag="session.start", forbid_unknown_fields=True):
    """Asks for the session. What is left out is the platform's choice."""

    metadata: dict[str, Any] = {}
    pipeline: Literal["s2s", "stt_tts"] | None = None
    transport: Literal["websocket", "webrtc"] = "websocket"
    backend: BackendName | None = None


class SessionStop(msgspec.Struct, frozen=True, tag_field="type", tag="session.stop", forbid_unknown_fields=True):
    """Ends the session."""


class Ping(msgspec.Struct, frozen=True, tag_field="type", tag="ping", forbid_unknown_fields=True):
    """Asks for a ``pong`` with the same ``t``."""

    t: Mark = None


ClientMessage = SessionStart | SessionStop | Ping
_decoder: Final[msgspec.json.Decoder[ClientMessage]] = msgspec.json.Decoder(ClientMessage)
_encoder: Final = msgspec.json.Encoder()


class AudioInfo(msgspec.Struct, frozen=True):
    """The format of binary frames, both ways; ``sample_rate`` in Hz, ``frame_ms`` in milliseconds."""

    encoding: str
    sample_rate: int
    channels: int
    frame_ms: int


class SessionLimits(msgspec.Struct, frozen=True):
    """How long the session may last, and be silent, in seconds; null: for ever."""

    max_duration_s: int | None
    idle_timeout_s: int | None


class LiveKitRoom(msgspec.Struct, frozen=True):
    """Where the client's room is: the server's address, a token good for a minute, the room's name."""

    url: str
    token: str
    room: str


class SessionStarted(msgspec.Struct, frozen=True, tag_field="type", tag="session.started"):
    """The session is there; with the token its client may come back."""

    session_id: str
    resume_token: str
    backend: str
    pipeline: str
    transport: str
    audio: AudioInfo | None
    limits: SessionLimits
    livekit: LiveKitRoom | msgspec.UnsetType = msgspec.UNSET


class SessionResumed(SessionStarted, frozen=True, tag_field="type", tag="session.resumed"):
    """The session goes on; ``gap_ms`` is how long its client was away, in milliseconds."""

    gap_ms: int = 0


class SessionQueued(msgspec.Struct, frozen=True, tag_field="type", tag="session.queued"):
    """The session waits; times in seconds, null: unknown (the wait) or for ever."""

    session_id: str
    resume_token: str
    position: int
    estimated_wait_s: int | None
    expires_in_s: int | None


class SessionEnded(msgspec.Struct, frozen=True, tag_field="type", tag="session.ended"):
    """The session is over; the close follows."""

    reason: str
    duration_ms: int


class ScopeLimit(msgspec.Struct, frozen=True):
    """One scope of a refusal; without the numbers where they are not the client's business, a null ``limit`` is no limit."""

    scope: str
    used: int | msgspec.UnsetType = msgspec.UNSET
    limit: int | msgspec.UnsetType | None = msgspec.UNSET


class SessionRejected(msgspec.Struct, frozen=True, tag_field="type", tag="session.rejected"):
    """There will be no session; the close follows."""

    code: str
    message: str
    retry_after_s: int | None = None
    limits: Sequence[ScopeLimit] = ()


class Problem(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """Something was wrong with what the client sent; the session goes on."""

    code: Literal["invalid_message", "audio_before_start", "invalid_audio", "too_fast"]
    message: str


class Pong(msgspec.Struct, frozen=True, tag_field="type", tag="pong"):
    """The answer to ``ping``."""

    t: Mark


ServerMessage = SessionQueued | SessionStarted | SessionResumed | SessionEnded | SessionRejected | Problem | Pong


def encode(message: ServerMessage) -> str:
    """Return the text frame."""
    return _encoder.encode(message).decode()


def read(text: str) -> ClientMessage:
    """Return the client's message.

    Raises:
        InvalidMessage: With a sentence for the client's developer.
    """
    try:
        message = _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise InvalidMessage(f"{str(error)[:200]}.") from None
    except (ValueError, RecursionError):
        raise InvalidMessage("The message is not JSON that can be read.") from None
    if isinstance(message, SessionStart):
        _check_metadata(message.metadata)
    return message


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Walk it level by level, without recursion, so that what is deep is refused before anything that recurses sees it."""
    level: list[Any] = [metadata]
    for _ in range(MAX_METADATA_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.keys())
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, str) and "\x00" in value:
                raise InvalidMessage("The metadata holds a NUL character, which cannot be stored.")
        if not inner:
            break
        level = inner
    else:
        raise InvalidMessage(f"The metadata is nested deeper than {MAX_METADATA_DEPTH} levels.")
    if len(_encoder.encode(metadata)) > MAX_METADATA_BYTES:
        raise InvalidMessage(f"The metadata is larger than {MAX_METADATA_BYTES} bytes.")
