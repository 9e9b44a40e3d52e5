"""How values read on the pages: durations, limits, reasons. Plain values in, text out."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sessions_app.domain.states import FINAL_STATES, LIVE_STATES, MEANINGS, Reason, State
from sessions_app.models import Session
from sessions_app.providers.base import RoomEvent
from sessions_app.selectors.history import Flood
from sessions_app.selectors.room_records import Story
from sessions_app.selectors.timeline import Entry

MAX_METADATA_CHARS: Final = 8_000  # room for what a client may send, laid out
# What an event's detail holds besides what is shown as it is.
_TOLD: Final = {
    "gap_ms", "connection", "resume_token", "newest", "moved_from", "text", "limits", "rate", "sessions_per_minute", "queued",
    "max_queue_length",
}  # fmt: skip

_SCOPES: Final = {"user": "User", "tenant": "Tenant", "backend": "Backend", "platform": "Platform"}
# As members are told: their own numbers, and of what they share with others only that it was full.
_MEMBERS_SCOPES: Final = {"user": "User", "tenant": "Organisation", "backend": "Voice service", "platform": "Platform"}
_SHARED: Final = {"backend": Reason.BACKEND_LIMIT, "platform": Reason.PLATFORM_LIMIT}


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One line of a limit vector; ``limit`` is empty where nothing was limited, ``used`` None where the numbers are not for the reader.

    ``kept``: slots kept free for others. ``burst``: sessions that were allowed above the limit.
    """

    scope: str
    used: int | None
    limit: str
    full: bool
    kept: int = 0
    burst: int = 0

    def __str__(self) -> str:
        if self.used is None:
            return f"{self.scope}{' full' if self.full else ''}"
        burst = f" + {self.burst} burst" if self.burst else ""
        return f"{self.scope} {self.used} of {self.limit or 'any number'}{burst}"


def duration(milliseconds: int | float | None) -> str:
    """Return 340 as ``340 ms``, 12 300 as ``12.3 s``, 75 000 as ``1 min 15 s``, 3 700 000 as ``1 h 1 min``; None as a dash."""
    if milliseconds is None:
        return "–"
    if milliseconds < 1_000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1_000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def ago(seconds: float | None) -> str:
    """Return 4.2 as ``4 s ago``, 300 as ``5 min 0 s ago``; None as ``never``. Up to two minutes in seconds."""
    if seconds is None:
        return "never"
    seconds = max(0.0, seconds)
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{duration(seconds * 1000)} ago"


def talk_time(session: Session, *, now: datetime) -> str:
    """Return how long the session was active, or has been up to now; a dash where it never was."""
    if session.state in LIVE_STATES:
        return f"{duration((now - session.active_at).total_seconds() * 1000)} so far" if session.active_at else "–"
    return duration(session.duration_ms) if session.active_at else "–"


def waited(session: Session, *, now: datetime) -> str:
    """Return how long the session waited in the queue, or has up to now; empty where it never did."""
    if session.queued_at is None:
        return ""
    until = session.started_at or session.ended_at
    text = duration(((until or now) - session.queued_at).total_seconds() * 1000)
    return text if until else f"{text} so far"


def flood_sentence(flood: Flood, *, own: bool = False) -> str:
    """Return what is known of attempts that were counted only; ``own``: the reader knows whose they are."""
    many = flood.count != 1
    whose = "" if own else f" of {flood.tenant}" if flood.tenant else " by callers who are not known"
    first, last = f"{flood.first:%Y-%m-%d %H:%M:%S}", f"{flood.last:%H:%M:%S}"
    if flood.first.date() != flood.last.date():
        last = f"{flood.last:%Y-%m-%d %H:%M:%S}"
    when = f"at {first}" if flood.first == flood.last else f"between {first} and {last}"
    further = "further " if flood.tenant or own else ""
    return (
        f"{flood.count:,} {further}attempt{'s' if many else ''}{whose} {'were' if many else 'was'} refused with {flood.reason}"
        f" {when} UTC and counted only."
    )


def reason_sentence(reason: str) -> str:
    """Return the sentence of a reason, empty for none and for one that is not known (any more)."""
    try:
        return MEANINGS[Reason(reason)].message
    except ValueError:
        return ""


def event_sentence(state: str, reason: str, *, in_room: bool = False) -> str:
    """Return the sentence of an event's reason; a client that dropped, or left its room, has not stayed away yet."""
    if in_room and state == State.RECONNECTING and reason == Reason.CLIENT_LOST:
        return "The user left the room; the slot is kept for the grace."
    if state == State.RECONNECTING and reason == Reason.CLIENT_LOST:
        return "The connection dropped; the slot is kept for the grace."
    if reason == Reason.AUTHENTICATION_FAILED and state not in FINAL_STATES:
        return "A resume token that is good no more was shown, and refused."
    return reason_sentence(reason)


def entry_lines(entry: Entry) -> list[str]:
    """Return what else a change's event tells, one sentence each."""
    detail, lines = entry.detail, cause_lines(entry.detail)
    if entry.taken_from:
        lines.append(f"Taken over from node {entry.taken_from}.")
    if entry.gap_ms is not None:
        lines.append(f"The client is back after {duration(entry.gap_ms)}.")
    elif "connection" in detail and not entry.taken_from:
        lines.append("A newer connection of the client took the place of the one before.")
    if "connection" in detail:
        lines.append(f"Connection {detail['connection']} of this session.")
    if "resume_token" in detail:
        lines.append(f"It was that of connection {detail['resume_token']}; the newest is {detail.get('newest', 'not known')}.")
    if entry.moved_from:
        lines.append(f"Moved here from backend {entry.moved_from}.")
    if "text" in detail:
        lines.append(str(detail["text"]))
    return [*lines, *(f"{name.replace('_', ' ')}: {value}" for name, value in detail.items() if name not in _TOLD)]


def cause_lines(detail: Mapping[str, object], *, own: bool = False) -> list[str]:
    """Return what an event tells of why an attempt had to wait or was refused; ``own``: as members of its tenant may see it."""
    lines = []
    stored = detail.get("limits")
    if isinstance(stored, list):
        seen = _as_members_see(stored, "") if own else limit_rows(stored)
        told = "; ".join(str(row) for row in seen if row.used is not None)
        lines.append(f"In use when it began to wait: {told}.")
    if "rate" in detail:
        whose = "user" if detail["rate"] == "user" else "organisation" if own else "tenant"
        lines.append(f"The {whose} may start {detail.get('sessions_per_minute')} sessions a minute, and had.")
    if "queued" in detail:
        lines.append(f"{detail['queued']} of {detail.get('max_queue_length')} places in the queue were taken.")
    return lines


@dataclass(frozen=True, slots=True)
class RoomRow:
    """One thing that happened in a session's room: ``what`` in words, and what the platform made of it."""

    at: datetime
    what: str
    verdict: str


_IN_ROOM: Final = {
    "room_started": "The room was made",
    "room_finished": "The room ended",
    "participant_joined": "{who} joined",
    "participant_left": "{who} left",
    "participant_aborted": "{who} tried to join, and did not get through",
    "track_published": "{who} began to send {what}",
    "track_unpublished": "{who} stopped to send",
}
_WHO: Final = {"user": "The user", "agent": "The agent", "other": "Somebody else"}


def room_sentence(event: RoomEvent) -> str:
    """Return what a provider's event says, in words; its own name for it where there are none."""
    words = _IN_ROOM.get(event.kind)
    if words is None:
        return f"{event.name or 'Something'} was told."
    person = event.participant
    sound = "audio" if person is not None and person.has_audio else "something"
    said = words.format(who=_WHO[person.role] if person is not None else "Somebody", what=sound)
    why = f" ({event.reason.replace('_', ' ').lower()})" if event.reason and event.kind in {"participant_left", "room_finished"} else ""
    return f"{said}{why}."


def room_rows(story: Story, read: Callable[[Mapping[str, object]], RoomEvent] | None) -> list[RoomRow]:
    """Return what happened in a session's room, oldest first; ``read`` is its provider's, None where there is none (any more)."""
    rows = []
    for each in story.events:
        what = room_sentence(read(each.body)) if read is not None else f"{each.name} was told."
        rows.append(RoomRow(each.received_at, what, each.verdict or "Not processed yet."))
    rows += [RoomRow(each.at, f"Found: {each.get_kind_display()}.", each.detail) for each in story.drifts]
    return sorted(rows, key=lambda row: row.at)


def metadata(value: object) -> str:
    """Return a client's own data laid out for reading, at most ``MAX_METADATA_CHARS``; empty where there is none."""
    if not value:
        return ""
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= MAX_METADATA_CHARS else f"{text[:MAX_METADATA_CHARS]}\n… (cut here)"


def limit_rows(limits: Sequence[Mapping[str, object]]) -> list[LimitRow]:
    """Return a stored limit vector as lines; entries that cannot be read are left out."""
    return [row for row in map(_limit_row, limits) if row is not None]


def members_limit_rows(session: Session) -> list[LimitRow]:
    """Return a session's limit vector as a member of its tenant may see it: without the numbers of what is shared with other tenants."""
    return _as_members_see(session.limits, session.reason)


def _as_members_see(limits: Sequence[Mapping[str, object]], reason: str) -> list[LimitRow]:
    rows = []
    for entry in limits:
        scope, row = str(entry.get("scope")), _limit_row(entry)
        if row is None or scope not in _MEMBERS_SCOPES:
            continue
        name = _MEMBERS_SCOPES[scope]
        shared = LimitRow(name, None, "", reason == _SHARED.get(scope))
        rows.append(shared if scope in _SHARED else replace(row, scope=name))
    return rows


def _limit_row(entry: Mapping[str, object]) -> LimitRow | None:
    scope, used, limit = entry.get("scope"), entry.get("used"), entry.get("limit")
    if not isinstance(used, int):
        return None
    kept, burst = _count(entry.get("reserved")), _count(entry.get("burst"))
    full = isinstance(limit, int) and used + kept >= limit + burst
    return LimitRow(_SCOPES.get(str(scope), str(scope)), used, str(limit) if isinstance(limit, int) else "", full, kept, burst)


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
