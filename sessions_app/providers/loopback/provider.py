"""The loopback backend as a provider.

Owns: the sessions that this object opened, and the misbehaviour that its options ask for.
Refuses: ``webrtc``; there is no media server behind it.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sessions_app.providers.base import (
    AudioFormat,
    BackendConfig,
    Capabilities,
    LiveSession,
    OpenRequest,
    ProbeResult,
    Provider,
    ProviderEvent,
    ProviderSession,
)
from sessions_app.providers.exceptions import AgentAbsent, ConnectionFailed, InvalidConfig, PipelineError, ProviderError, ProviderFailed
from sessions_app.providers.loopback.echo import Echo
from sessions_app.providers.loopback.options import LoopbackOptions

_OPUS = AudioFormat(encoding="opus", sample_rate=48_000)


class _Failures:
    """Says whether this time is to fail: always, never, or so many times."""

    def __init__(self, wanted: bool | int) -> None:
        self._left = float("inf") if wanted is True else int(wanted)

    def now(self) -> bool:
        if self._left <= 0:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True, slots=True)
class _Held:
    echo: Echo
    started_at: datetime


class LoopbackProvider(Provider):
    """Answers with the caller's own audio."""

    name = "loopback"

    def __init__(self, config: BackendConfig) -> None:
        self._backend = config.name
        self._options = LoopbackOptions.read(config.options)
        self._capabilities = Capabilities(
            transports=frozenset({"websocket"}),
            pipelines=frozenset({"s2s", "stt_tts"}),
            audio=(AudioFormat(encoding="pcm_s16le", sample_rate=self._options.sample_rate), _OPUS),
            relayed=True,
            resumable=True,
        )
        self._open_failures = _Failures(self._options.fail_open)
        self._probe_failures = _Failures(self._options.fail_probe)
        self._held: dict[UUID, _Held] = {}

    @property
    def capabilities(self) -> Capabilities:
        """One PCM format, or opus passed through; any pipeline; WebSocket only."""
        return self._capabilities

    async def open(self, request: OpenRequest) -> ProviderSession:
        """Start an echo; one that this session has already is ended."""
        if not self._capabilities.serves(pipeline=request.pipeline, transport=request.transport):
            raise InvalidConfig(f"backend {self._backend!r} does not serve pipeline {request.pipeline!r} over {request.transport!r}.")
        await _pause(self._options.open_delay_ms)
        if self._options.hang_open:
            await _for_ever()
        if self._open_failures.now():
            raise ConnectionFailed("option 'fail_open' asks for it.")
        audio = self._capabilities.choose_audio(request.audio) or self._capabilities.audio[0]
        echo = Echo(audio, delay_s=self._options.delay_ms / 1000)
        self._arrange_misfortunes(echo)
        before = self._held.get(request.session_id)
        self._held[request.session_id] = _Held(echo=echo, started_at=datetime.now(UTC))
        if before is not None:
            before.echo.finish()
        return ProviderSession(session_id=request.session_id, audio=audio, resource=_resource(request.session_id), state=echo)

    async def send(self, session: ProviderSession, frame: bytes) -> None:
        """Queue the audio; never waits."""
        _echo(session).put(frame)

    def receive(self, session: ProviderSession) -> AsyncIterator[bytes | ProviderEvent]:
        """Iterate over the echo's frames as they fall due; there are no events."""
        return _echo(session)

    async def close(self, session: ProviderSession) -> None:
        """End the echo; the session is listed until ``close_delay_ms`` have passed."""
        held = self._held.get(session.session_id)
        if isinstance(session.state, Echo) and (held is None or held.echo is not session.state):
            # Closed before, or replaced by a later opening of the same session, which must live on.
            session.state.finish()
            return
        if held is None:
            return
        held.echo.finish()
        await _pause(self._options.close_delay_ms)
        if self._options.hang_close:
            await _for_ever()
        if self._held.get(session.session_id) is held:
            del self._held[session.session_id]

    async def list_live(self) -> Sequence[LiveSession]:
        """List the sessions that this object holds."""
        return [
            LiveSession(session_id=session_id, resource=_resource(session_id), started_at=held.started_at)
            for session_id, held in self._held.items()
        ]

    async def probe(self) -> ProbeResult:
        """Answer after ``probe_delay_ms``."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        await _pause(self._options.probe_delay_ms)
        if self._probe_failures.now():
            raise ConnectionFailed("option 'fail_probe' asks for it.")
        return ProbeResult(latency_ms=(loop.time() - asked_at) * 1000)

    async def aclose(self) -> None:
        """End every echo at once, whatever the options say of closing."""
        for held in self._held.values():
            held.echo.finish()
        self._held.clear()

    def _arrange_misfortunes(self, echo: Echo) -> None:
        options = self._options
        if options.hang_after_ms is not None:
            echo.after(options.hang_after_ms / 1000, echo.hang)
        if options.end_after_ms is not None:
            echo.after(options.end_after_ms / 1000, echo.finish)
        failures: tuple[tuple[str, int | None, type[ProviderError]], ...] = (
            ("die_after_ms", options.die_after_ms, ProviderFailed),
            ("pipeline_error_after_ms", options.pipeline_error_after_ms, PipelineError),
            ("absent_after_ms", options.absent_after_ms, AgentAbsent),
        )
        for name, after_ms, failure in failures:
            if after_ms is not None:
                echo.after(after_ms / 1000, functools.partial(echo.finish, failure(f"option {name!r} asks for it.")))


def _resource(session_id: UUID) -> str:
    return f"loopback-{session_id}"


def _echo(session: ProviderSession) -> Echo:
    if not isinstance(session.state, Echo):
        raise ProviderFailed("this process did not open the session.")
    return session.state


async def _pause(milliseconds: int) -> None:
    if milliseconds:
        await asyncio.sleep(milliseconds / 1000)


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()
