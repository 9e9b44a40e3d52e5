"""The contract between the platform and a voice backend.

Owns: the words that both sides use (``OpenRequest``, ``ProviderSession``, ``ProviderEvent``, …), ``Provider``, which every backend
implements, and ``RoomProvider``, which those add whose sessions live in rooms that clients enter by themselves.
Refuses: time limits, retries, health and capacity. The caller puts ``asyncio.timeout`` around every call and decides what a failure
means, so an implementation must be safe to cancel at each ``await`` and leave nothing behind that ``close`` does not remove.
Limits: one provider object belongs to one event loop; a session has one reader and one writer at a time.

How different backends fit, with nothing changed here:

* **A media server (LiveKit)**: a ``RoomProvider``, ``relayed=False``, ``transports={"webrtc"}``. ``open`` makes the room, named after the
  session, and a join token; ``client`` carries url, token and room; ``resource`` is the room's name. Media never passes through the
  platform: ``send`` and ``receive`` stay ``NotRelayed``. ``close`` deletes the room, in whichever process it is called. ``open`` for a
  session whose room was lost makes it again, under the same name.
* **A speech-to-speech WebSocket (OpenAI Realtime)**: ``relayed=True``, 24 kHz ``pcm_s16le``. ``open`` connects and configures the model
  from ``request.model``; ``send`` appends audio; ``receive`` yields audio, and events such as ``speech_started``, ``interrupted`` and
  ``transcript``. The connection lives in ``ProviderSession.state``; in another process there is nothing left to close but what the vendor
  lists.
* **Speech-to-text, agent, text-to-speech**: ``relayed=True``, ``pipelines={"stt_tts"}``. The agent callback (transcript in, answer out)
  is the provider's own affair, named by its options; ``receive`` yields ``transcript`` events and the spoken answer. What fails in a
  stage is ``PipelineError``.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal, Self
from uuid import UUID

from sessions_app.providers.exceptions import NotRelayed
from sessions_app.providers.settings import Setting

_PCM_SAMPLE_BYTES = 2


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One encoding of audio, the same in both directions.

    Attributes:
        encoding: ``pcm_s16le`` or ``opus``.
        sample_rate: Hz.
        channels: 1 is mono.
        frame_ms: Length of one frame in milliseconds.
    """

    encoding: Literal["pcm_s16le", "opus"]
    sample_rate: int
    channels: int = 1
    frame_ms: int = 20

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame; 0 for ``opus``, whose frames differ in size."""
        if self.encoding == "opus":
            return 0
        return self.sample_rate * self.frame_ms // 1000 * self.channels * _PCM_SAMPLE_BYTES


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, as it is configured.

    Attributes:
        transports: How clients reach it: ``websocket`` (through the platform), ``webrtc`` (by themselves).
        pipelines: ``s2s`` and ``stt_tts``.
        audio: Formats that ``send`` and ``receive`` speak, the preferred one first; empty where media is not relayed.
        relayed: Media passes through the platform: ``send`` and ``receive`` are used.
        resumable: ``open`` for a session that was opened before, here or in another process, carries it on with nothing lost but
            audio under way. Otherwise it can be opened again all the same, but the backend has forgotten the conversation.
    """

    transports: frozenset[str]
    pipelines: frozenset[str]
    audio: tuple[AudioFormat, ...]
    relayed: bool
    resumable: bool

    def serves(self, *, pipeline: str, transport: str) -> bool:
        """Return whether a session of this pipeline can be had over this transport."""
        return pipeline in self.pipelines and transport in self.transports

    def choose_audio(self, wanted: AudioFormat | None) -> AudioFormat | None:
        """Return the wanted format where it is spoken, else the preferred one; None where media is not relayed."""
        if wanted in self.audio:
            return wanted
        return self.audio[0] if self.audio else None


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """What an operator set for one backend.

    Attributes:
        name: The backend's name; several backends may use one provider.
        options: Settings that may be shown.
        secrets: Decrypted keys; never shown, logged or put into an error.
    """

    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """An admitted session that wants its backend.

    Attributes:
        session_id: Also what the backend's resource is named after.
        tenant: The tenant's slug.
        user: The tenant's own name for the user.
        pipeline: ``s2s`` or ``stt_tts``.
        transport: ``websocket`` or ``webrtc``.
        model: Model names and settings of the pipeline, as the backend has them for it.
        metadata: The client's own, at most 4 KiB as JSON; not shown in ``repr``.
        audio: The format wanted; what the session then speaks is ``ProviderSession.audio``.
        max_duration_s: Longest life in seconds, for backends that can hold it too; the platform ends the session itself.
    """

    session_id: UUID
    tenant: str
    user: str
    pipeline: str
    transport: str
    model: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, object] = field(default_factory=dict, repr=False)
    audio: AudioFormat | None = None
    max_duration_s: int | None = None


@dataclass(eq=False, slots=True)
class ProviderSession:
    """The provider's side of one session.

    Attributes:
        session_id: The platform's id.
        audio: The format that ``send`` and ``receive`` speak; None where media is not relayed.
        resource: The backend's own name for it, kept in the session's record; empty where it is not known.
        client: What a client needs to connect by itself, as JSON values (url, token, room); not shown in ``repr``.
        state: The provider's own; None for a session that this process did not open.
    """

    session_id: UUID
    audio: AudioFormat | None
    resource: str
    client: Mapping[str, object] = field(default_factory=dict, repr=False)
    state: object = field(default=None, repr=False)

    @classmethod
    def known(cls, session_id: UUID, resource: str = "") -> Self:
        """Name a session that another process opened, or whose opening never returned; only good for ``close``."""
        return cls(session_id=session_id, audio=None, resource=resource)


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """Something that a backend tells beside audio.

    Attributes:
        kind: ``transcript``, ``speech_started``, ``interrupted``, ``agent_joined``, …; unknown kinds are passed over.
        data: JSON values; may hold what was said, so not shown in ``repr``.
    """

    kind: str
    data: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A session that the backend holds.

    Attributes:
        session_id: None where the backend's resource is not named after a session of ours.
        resource: The backend's own name for it.
        started_at: Aware; None where the backend does not tell.
    """

    session_id: UUID | None
    resource: str
    started_at: datetime | None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A backend that answered its probe.

    Attributes:
        latency_ms: From question to answer, in milliseconds.
        detail: One sentence for operators, or empty; no secrets.
    """

    latency_ms: float
    detail: str = ""


class Provider(ABC):
    """One configured backend. Made without an event loop, then used within one, and closed with ``aclose``.

    Attributes:
        name: The name that it is registered by.
        settings: Options and secrets as a form asks for them; none: they are typed as JSON.
    """

    name: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = ()

    @abstractmethod
    def __init__(self, config: BackendConfig) -> None:
        """Check the configuration; no network, no event loop.

        Raises:
            InvalidConfig: An option or secret is unknown, missing or wrong; the detail is a sentence that names it.
        """

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this backend can do, as it is configured; the same for the object's life."""

    @property
    def client_origins(self) -> frozenset[str]:
        """Where clients connect by themselves, as ``scheme://host[:port]``; none where all goes through the platform."""
        return frozenset()

    @abstractmethod
    async def open(self, request: OpenRequest) -> ProviderSession:
        """Open the backend's side of a session; where it is open already, carry it on or replace it.

        When this fails or is cancelled, what it made is removed by it or by ``close(ProviderSession.known(session_id))``.

        Raises:
            ConnectionFailed: The backend could not be reached.
            OpenTimeout: The backend itself gave up waiting.
            InvalidConfig: The backend refuses its key, or does not serve this pipeline or transport.
            ProviderError: Any other failure.
        """

    async def send(self, session: ProviderSession, frame: bytes) -> None:
        """Give audio to the backend: one or more whole PCM frames, or one opus packet.

        Waits for the network at most, never for speech. Frames for a backend that hung up or was closed are dropped.

        Raises:
            ProviderFailed: The backend died; ``receive`` says so too.
            NotRelayed: Media does not pass through the platform.
        """
        raise NotRelayed(f"provider {self.name}")

    def receive(self, session: ProviderSession) -> AsyncIterator[bytes | ProviderEvent]:
        """Iterate over what the backend says: audio frames and events, in order.

        It ends when the backend hung up, and after ``close``. The reading task may be cancelled and another may read on; one reader at a
        time.

        Raises:
            ProviderFailed: The backend died.
            PipelineError: A stage of its pipeline did.
            NotRelayed: Media does not pass through the platform.
        """
        raise NotRelayed(f"provider {self.name}")

    @abstractmethod
    async def close(self, session: ProviderSession) -> None:
        """End the backend's side for good; returns when the backend holds it no more.

        Needs ``session_id`` and ``resource`` only (``resource`` may be empty), so that any process can close any session. Whether it is
        still open, died, was half opened, or never was: all the same. May be cancelled and called again.

        Raises:
            ProviderError: The backend may still hold it.
        """

    @abstractmethod
    async def list_live(self) -> Sequence[LiveSession]:
        """List what the backend holds. A relayed provider lists at least this object's sessions, others those of every process.

        Raises:
            ProviderError: The backend could not be asked.
        """

    @abstractmethod
    async def probe(self) -> ProbeResult:
        """Ask the backend, cheaply and with its credentials, whether a session could be opened.

        Raises:
            ProviderError: It could not.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Give back connections and whatever else this object holds; nothing may be asked of it afterwards but this again."""


Role = Literal["user", "agent", "other"]
AbsentAgent = Literal["retry", "other", "end"]


@dataclass(frozen=True, slots=True)
class RoomPolicy:
    """How long a room's people may take, as the backend is configured.

    Attributes:
        join_timeout_s: The user must be in the room this many seconds after it was made.
        agent_timeout_s: An agent must be there, with its audio, this many seconds after it was asked for; None: no agent is expected.
        on_agent_absent: What to do then: ask for one again once (``retry``), go to another backend (``other``), or end the session.
    """

    join_timeout_s: int
    agent_timeout_s: int | None
    on_agent_absent: AbsentAgent


@dataclass(frozen=True, slots=True)
class Room:
    """A room that the backend has.

    Attributes:
        name: The name that it is asked for by; the same when it is made again.
        sid: The backend's own id, another one each time it is made.
        session_id: None where the room is not named after a session.
        created_at: Aware; None where the backend does not tell.
        participants: How many are in it, agents left out; may lag by seconds.
    """

    name: str
    sid: str
    session_id: UUID | None
    created_at: datetime | None
    participants: int


@dataclass(frozen=True, slots=True)
class Participant:
    """Somebody in a room.

    Attributes:
        sid: The backend's own id, another one after each join.
        identity: What the token that let them in calls them.
        role: ``user``: the one whom the room's session admitted; ``agent``: who answers them; ``other``: neither.
        active: Media can flow.
        joined_at: Aware; None where the backend does not tell.
        has_audio: A track of theirs with sound is published.
    """

    sid: str
    identity: str
    role: Role
    active: bool
    joined_at: datetime | None
    has_audio: bool


@dataclass(frozen=True, slots=True)
class RoomEvent:
    """What a webhook says, in the platform's words. Comes late, twice, in any order, or never.

    Attributes:
        id: The same each time that it is delivered; empty where the backend gave none.
        kind: ``room_started``, ``room_finished``, ``participant_joined``, ``participant_left``, ``participant_aborted`` (never had media),
            ``track_published``, ``track_unpublished``; ``other`` for every event that says nothing of this.
        name: The backend's own name for the kind of event.
        at: When it happened, by the backend's clock, aware; None where it does not tell.
        room: The room's name, empty where it concerns none.
        room_sid: The room's own id, empty where it is not told.
        session_id: Of the room; None where the room is not named after a session.
        participant: Whom it concerns; None where nobody.
        reason: Why they left or it ended, in the backend's word; or empty.
    """

    id: str
    kind: str
    name: str
    at: datetime | None
    room: str
    room_sid: str
    session_id: UUID | None
    participant: Participant | None
    reason: str


class RoomProvider(Provider):
    """A backend whose sessions live in rooms: clients and agents enter by themselves, and the backend tells of it by webhooks.

    ``open`` makes the room, or makes it again under the same name where it is gone, and asks for an agent; for a room that is there it
    changes nothing. ``close`` removes the room: that alone keeps the user out.
    """

    @property
    @abstractmethod
    def policy(self) -> RoomPolicy:
        """How long people may take; the same for the object's life."""

    @abstractmethod
    def room_name(self, session_id: UUID) -> str:
        """Return the name of this session's room; it is never used for another session."""

    @abstractmethod
    def user_identity(self, session_id: UUID) -> str:
        """Return what this session's user is called in its room."""

    @abstractmethod
    def rejoin(self, session_id: UUID) -> Mapping[str, object]:
        """Return what the session's client needs to enter its room once more, as ``ProviderSession.client``; no network."""

    @abstractmethod
    async def list_rooms(self) -> Sequence[Room]:
        """List every room that the backend has, ours or not. A room that was just made or removed may be missing or listed still.

        Raises:
            ProviderError: The backend could not be asked.
        """

    @abstractmethod
    async def list_participants(self, name: str) -> Sequence[Participant]:
        """List who is in a room; nobody where there is no such room.

        Raises:
            ProviderError: The backend could not be asked.
        """

    @abstractmethod
    async def dispatch_agent(self, name: str, request: OpenRequest) -> None:
        """Ask for an agent once more in a room that is there. That one was asked for does not mean that one comes.

        Raises:
            ProviderError: It could not be asked for.
        """

    @abstractmethod
    async def remove_room(self, name: str) -> None:
        """Remove a room and all who are in it; no error where there is none.

        Raises:
            ProviderError: It may still be there.
        """

    @abstractmethod
    async def remove_participant(self, name: str, identity: str) -> None:
        """Put somebody out of a room; no error where they are not in it. They may come back in for as long as the room is there.

        Raises:
            ProviderError: They may still be in it.
        """

    @abstractmethod
    def verify_webhook(self, body: bytes, authorization: str) -> Mapping[str, object]:
        """Return what a webhook's body says, with every secret taken out, so that it may be kept.

        Args:
            body: As it came, byte by byte.
            authorization: The header of that name; empty where there was none.

        Raises:
            WrongSignature: This backend has not signed it, or not just now.
        """

    @abstractmethod
    def read_event(self, event: Mapping[str, object]) -> RoomEvent:
        """Return what an event of ``verify_webhook`` means; what is missing in it, or of another form, is empty, never an error."""
