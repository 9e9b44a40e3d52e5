"""The ``voice.v1`` connection: it parses, calls the session's runner and writes down what it is told; nothing else.

Owns: the handshake, the first message's time limit, what one connection may send and how often, and the close.
Refuses: deciding about a session; the database; the channel layer. It has its own receive loop, since the one of Channels goes through
a thread for every message, and audio would wait there for every slow query of the process.
Limits: one reader and one writer a connection. A client that does not read holds up its own writer only; what waits for it is bounded
by the relay's queue and the attachment's, and a last word that does not get through within ``FLUSH_S`` is given up.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from channels.consumer import AsyncConsumer
from django.conf import settings

from sessions_app.domain.allowance import Allowance
from sessions_app.domain.states import MEANINGS, Reason
from sessions_app.domain.world import Attempt
from sessions_app.runtime import live, refused
from sessions_app.runtime.attachment import Attachment, Ended, Leaving, Note, Queued, Rejected, Replaced, Started, Word
from sessions_app.runtime.session_runner import SessionRunner
from sessions_app.runtime.sessions import Sessions
from sessions_app.runtime.telemetry import SessionTrace
from sessions_app.services.exceptions import VoiceError
from sessions_app.services.tokens import Claims, issue_resume_token
from sessions_app.transport import authentication, close_codes, messages, refusals

MAX_ERRORS: Final = 10  # in a session; this one closes
FLUSH_S: Final = 5.0
# Who came at the same moment is not shown out at the same moment, to come back at the same moment.
LATEST_START: Final = 1.25  # times the setting
TEXT_RATE, TEXT_BURST = 20.0, 60.0  # messages a second, and at once
# Audio comes 50 times a second; what the network held up for half a minute comes at once.
AUDIO_RATE, AUDIO_BURST = 200.0, 1500.0

_LOST: Final = frozenset({None, 1006})  # how servers tell of a connection that ended without a close

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class VoiceConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no types
    """One WebSocket of one client.

    Args:
        sessions: Returns the sessions of this process.
    """

    def __init__(self, sessions: Callable[[], Sessions] = live.process_sessions) -> None:
        self._find_sessions = sessions
        self._runner: SessionRunner | None = None
        self._errors = 0
        self._frame_bytes: int | None = None  # None: no audio yet; 0: any size
        self._closed_with: int | None = None
        self._resuming: asyncio.Task[SessionRunner | None] | None = None
        self._spoke = False

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve the connection from handshake to close."""
        self.scope, self.base_send = scope, send
        if (await receive())["type"] != "websocket.connect":
            return
        self._trace = SessionTrace.begin()
        try:
            claims = await self._let_in(receive)
            if claims is not None:
                await self._serve(claims, receive)
        except OSError:
            # The client went away while it was written to; its session has been told.
            return
        finally:
            self._trace.close()

    # --- the handshake -------------------------------------------------------------------------------------------------------
    async def _let_in(self, receive: Receive) -> Claims | None:
        """Accept the socket and return for whom; None: refused, and told so."""
        self._sessions = self._find_sessions()
        reason: Reason | None = None
        claims: Claims | None = None
        try:
            claims = authentication.authenticate(self.scope)
        except VoiceError as error:
            reason = error.reason
        if reason is None and self._sessions.home.draining:
            reason = Reason.NODE_DRAINING
        if claims is not None:
            self._trace.about(claims.session_id, resumed=claims.connection is not None)
        if reason is not None:
            self._trace.refused(reason)
            refused.note(reason, claims.tenant_id if claims is not None else refused.NOBODY)
        if reason is not None and authentication.wants_http_refusal(self.scope):
            await self._refuse_over_http(reason, receive)
            return None
        chosen = authentication.subprotocol(self.scope)
        await self.base_send({"type": "websocket.accept", "subprotocol": chosen})
        if reason is None and chosen is not None:
            return claims
        if reason is not None:
            await self._send_text(messages.encode(refusals.rejected(reason)))
            await self._close(close_codes.for_reason(reason))
        else:
            await self._send_text(_problem("invalid_message", f"Offer the subprotocol {authentication.SUBPROTOCOL}."))
            await self._close(close_codes.MALFORMED)
        return None

    async def _refuse_over_http(self, reason: Reason, receive: Receive) -> None:
        meaning = MEANINGS[reason]
        await refusals.refuse_handshake(
            self.scope,
            receive,
            self.base_send,
            status=meaning.http or 403,
            code=reason.value,
            message=meaning.message,
            retry_after_s=refusals.RETRY_AFTER_S.get(reason),
        )

    # --- the connection --------------------------------------------------------------------------------------------------------
    async def _serve(self, claims: Claims, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        self._claims = claims
        self._time = loop.time
        self._texts = Allowance(rate=TEXT_RATE, burst=TEXT_BURST)
        self._frames = Allowance(rate=AUDIO_RATE, burst=AUDIO_BURST)
        attachment = self._attachment = Attachment(self._trace)
        start_within_s = settings.VOICE_START_TIMEOUT_S * random.uniform(1, LATEST_START)  # noqa: S311 - no secret
        waiting = self._waiting = loop.call_later(start_within_s, self._too_late)
        if claims.connection is not None:
            waiting.cancel()
            self._resuming = loop.create_task(self._resume(claims))
        reader, writer = loop.create_task(self._read(receive)), loop.create_task(self._write())
        try:
            await asyncio.wait({reader, writer, attachment.last_word}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                await asyncio.wait({reader, writer}, timeout=FLUSH_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            attachment.gone = True
            if self._resuming is not None and not self._resuming.done():
                # It attaches nobody any more, but what the ledger was asked for has to be undone by the session's grace.
                await asyncio.wait({self._resuming}, timeout=FLUSH_S)
            if self._runner is not None:
                code = self._closed_with
                self._runner.detach(attachment, stopped=code == close_codes.NORMAL, closed=code not in _LOST)
            for task in (reader, writer):
                task.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _resume(self, claims: Claims) -> SessionRunner | None:
        runner = await self._sessions.resume(claims, self._attachment)
        if runner is not None:
            runner.errors += self._errors
            self._runner = runner
        return runner

    async def _read(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.receive":
                if not self._spoke and self._runner is not None:
                    self._spoke = True
                    self._runner.confirm()
                audio = message.get("bytes")
                if audio is not None:
                    self._hear(audio)
                else:
                    self._obey(message.get("text") or "")
            elif message["type"] == "websocket.disconnect":
                self._closed_with = message.get("code")
                return

    async def _write(self) -> None:
        send, following = self.base_send, self._attachment.next
        while True:
            word = await following()
            if isinstance(word, bytes):
                await send({"type": "websocket.send", "bytes": word})
                continue
            text, close = self._put(word)
            if text:
                await self._send_text(text)
            if close is not None:
                await self._close(close)
                return

    def _put(self, word: Word) -> tuple[str, int | None]:
        """Return a word's text and, where it is the last, the close code."""
        if isinstance(word, Note):
            return word.text, word.close
        if isinstance(word, Started):
            # From here on audio is welcome: it is decided where the client is told, not where the runner decided.
            self._frame_bytes = word.audio.frame_bytes if word.audio is not None else 0
            return messages.encode(_started(word, issue_resume_token(self._claims, connection=word.connection))), None
        if isinstance(word, Queued):
            return messages.encode(_queued(word, issue_resume_token(self._claims, connection=word.connection))), None
        return self._put_last(word)

    def _put_last(self, word: Ended | Rejected | Replaced | Leaving) -> tuple[str, int]:
        if isinstance(word, Ended):
            ended = messages.SessionEnded(reason=word.reason.value, duration_ms=word.duration_ms)
            return messages.encode(ended), close_codes.for_reason(word.reason)
        if isinstance(word, Rejected):
            if word.reason in refused.WITHOUT_RECORD:
                refused.note(word.reason, self._claims.tenant_id)
            rejected = refusals.rejected(word.reason, retry_after_s=word.retry_after_s, limits=word.limits)
            return messages.encode(rejected), close_codes.for_reason(word.reason)
        return "", close_codes.GOING_AWAY if isinstance(word, Leaving) else close_codes.REPLACED

    # --- what the client says ----------------------------------------------------------------------------------------------------
    def _hear(self, audio: bytes) -> None:
        if self._attachment.last_word.done():
            return
        size, frame = len(audio), self._frame_bytes
        if size > messages.MAX_AUDIO_BYTES:
            self._complain("invalid_audio", f"A message of audio has at most {messages.MAX_AUDIO_BYTES} bytes.", close=True)
        elif not self._frames.take(self._time(), max(1.0, size / (frame or size or 1))):
            self._complain("too_fast", "Audio comes much faster than it can be spoken; this message was dropped.")
        elif frame is None or self._runner is None:
            self._complain("audio_before_start", "Send audio after session.started.")
        elif not size or (frame and size % frame):
            self._complain("invalid_audio", f"A message of audio is one or more whole frames of {frame or 'the announced encoding'} bytes.")
        else:
            self._runner.hear(audio)

    def _obey(self, text: str) -> None:
        if self._attachment.last_word.done():
            return
        # More characters than bytes are allowed is too long in any case, and cheaper to see.
        if len(text) > messages.MAX_TEXT_BYTES or len(text.encode("utf-8", "replace")) > messages.MAX_TEXT_BYTES:
            self._complain("invalid_message", f"A message has at most {messages.MAX_TEXT_BYTES} bytes.", close=True)
            return
        if not self._texts.take(self._time()):
            self._complain("too_fast", f"At most {TEXT_RATE:g} messages a second; this one was dropped.")
            return
        try:
            message = messages.read(text)
        except messages.InvalidMessage as error:
            self._complain("invalid_message", str(error))
            return
        if isinstance(message, messages.Ping):
            self._attachment.tell(Note(messages.encode(messages.Pong(t=message.t))))
        elif isinstance(message, messages.SessionStart):
            self._start(message)
        elif self._runner is None:
            self._complain("invalid_message", "There is no session to stop; session.start begins one.")
        else:
            self._runner.finish(Reason.COMPLETED)

    def _start(self, message: messages.SessionStart) -> None:
        if self._runner is not None or self._resuming is not None:
            self._complain("invalid_message", "session.start is the first message, and comes once.")
            return
        self._waiting.cancel()
        attempt = Attempt(
            session_id=self._claims.session_id,
            tenant_id=self._claims.tenant_id,
            user=self._claims.user,
            pipeline=message.pipeline or "",
            transport=message.transport,
            backend=message.backend or "",
        )
        self._runner = self._sessions.connect(attempt, message.metadata, self._attachment)
        if self._runner is not None:
            self._runner.errors += self._errors

    def _too_late(self) -> None:
        text = _problem("invalid_message", f"No session.start within {settings.VOICE_START_TIMEOUT_S:g} s.")
        self._attachment.tell(Note(text, close=close_codes.MALFORMED))

    def _complain(self, code: str, sentence: str, *, close: bool = False) -> None:
        """Tell the client what it did wrong; close where it cannot go on, or has done too much of it."""
        if self._runner is not None:
            # Counted in the session, so that a new connection does not begin anew.
            self._runner.errors += 1
            errors = self._runner.errors
        else:
            self._errors += 1
            errors = self._errors
        close = close or errors >= MAX_ERRORS
        self._attachment.tell(Note(_problem(code, sentence), close=close_codes.MALFORMED if close else None))

    async def _send_text(self, text: str) -> None:
        await self.base_send({"type": "websocket.send", "text": text})

    async def _close(self, code: int) -> None:
        await self.base_send({"type": "websocket.close", "code": code})


def _problem(code: Any, sentence: str) -> str:
    return messages.encode(messages.Problem(code=code, message=sentence))


def _queued(word: Queued, resume_token: str) -> messages.SessionQueued:
    return messages.SessionQueued(
        session_id=str(word.session_id),
        resume_token=resume_token,
        position=word.position,
        estimated_wait_s=None if word.estimated_wait_s is None else math.ceil(word.estimated_wait_s),
        expires_in_s=None if word.expires_in_s is None else math.ceil(word.expires_in_s),
    )


def _started(word: Started, resume_token: str) -> messages.SessionStarted:
    audio = word.audio
    started = messages.SessionStarted(
        session_id=str(word.session_id),
        resume_token=resume_token,
        backend=word.backend,
        pipeline=word.pipeline,
        transport=word.transport,
        audio=None if audio is None else messages.AudioInfo(audio.encoding, audio.sample_rate, audio.channels, audio.frame_ms),
        limits=messages.SessionLimits(max_duration_s=word.policy.max_duration_s, idle_timeout_s=word.policy.idle_timeout_s),
        livekit=messages.LiveKitRoom(*(str(word.client[name]) for name in ("url", "token", "room"))) if word.client else msgspec.UNSET,
    )
    if word.gap_ms is None:
        return started
    return messages.SessionResumed(**{name: getattr(started, name) for name in started.__struct_fields__}, gap_ms=word.gap_ms)
