"""Reads of one session's life: its events in the order in which they happened, with names instead of ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final
from uuid import UUID

from sessions_app.domain.states import LIVE_STATES, State
from sessions_app.models import Backend, EndRequest, Node, Session, SessionEvent

MOST_EVENTS: Final = 500  # a client that drops and comes back for hours makes many


@dataclass(frozen=True, slots=True)
class Entry:
    """One change of the session.

    Attributes:
        seq: Sequence number of the ledger's transaction.
        after_ms: Milliseconds since the attempt.
        old: Empty for the first one.
        node: Name of the process that did it, its id where it has no row any more, or empty.
        backend: Name of the backend that the session was on then, or empty.
        actor: The person who asked for it, or empty.
        gap_ms: Milliseconds that the client was away, where it came back with this.
        taken_from: Name of the node that had the session until then, where it was another one.
        moved_from: Name of the backend that the session left with this, or empty.
    """

    seq: int
    at: datetime
    after_ms: int
    old: str
    new: str
    reason: str
    node: str
    backend: str
    actor: str
    detail: dict[str, object]
    gap_ms: int | None = None
    taken_from: str = ""
    moved_from: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The first ``MOST_EVENTS`` events, oldest first; ``cut`` where there are more."""

    entries: list[Entry]
    cut: bool


def of_session(session: Session) -> Timeline:
    """Return what happened to a session."""
    events = list(SessionEvent.objects.filter(session_id=session.pk).order_by("id")[: MOST_EVENTS + 1])
    cut, events = len(events) > MOST_EVENTS, events[:MOST_EVENTS]
    names = Names.of(events)
    return Timeline([entry(before, event, session, names) for before, event in pairwise([None, *events]) if event is not None], cut)


def ended_by(session: Session) -> str:
    """Return who asked for the end that a session came to; empty where it lives, or nobody asked."""
    if session.state in LIVE_STATES:
        return ""
    last = SessionEvent.objects.filter(session_id=session.pk).order_by("-id").values_list("actor", flat=True).first()
    return last or ""


def end_request(session: Session) -> EndRequest | None:
    """Return who asked for the end of a session that still lives, when and why; None where nobody did, or it is over."""
    return EndRequest.objects.filter(pk=session.pk).first() if session.state in LIVE_STATES else None


def node_names(ids: set[UUID]) -> dict[UUID, str]:
    """Return the names of nodes as people know them; a node without a row is left out."""
    return dict(Node.objects.filter(pk__in=ids).values_list("pk", "name"))


@dataclass(frozen=True, slots=True)
class Names:
    """Names of the nodes and backends that events refer to by their ids."""

    nodes: Mapping[UUID, str]
    backends: Mapping[int, str]

    @classmethod
    def of(cls, events: list[SessionEvent]) -> "Names":
        """Look up what these events refer to."""
        backends = {each for event in events for each in (event.backend_id, _number(event.detail, "moved_from")) if each}
        return cls(
            node_names({event.node_id for event in events if event.node_id}),
            dict(Backend.objects.filter(pk__in=backends).values_list("pk", "name")),
        )

    def node(self, node_id: UUID | None) -> str:
        """Return a node's name, its id where it has no row any more, or nothing for none."""
        return self.nodes.get(node_id, str(node_id)) if node_id else ""

    def backend(self, backend_id: int | None) -> str:
        """Return a backend's name, or nothing."""
        return self.backends.get(backend_id, "") if backend_id else ""


def entry(before: SessionEvent | None, event: SessionEvent, session: Session, names: Names) -> Entry:
    """Return how an event reads after the one ``before`` it."""
    other_node = before is not None and before.node_id is not None and event.node_id is not None and before.node_id != event.node_id
    return Entry(
        seq=event.seq,
        at=event.at,
        after_ms=round((event.at - session.attempted_at).total_seconds() * 1000),
        old=event.old,
        new=event.new,
        reason=event.reason,
        node=names.node(event.node_id),
        backend=names.backend(event.backend_id),
        actor=event.actor,
        detail=event.detail,
        gap_ms=_gap_ms(before, event),
        taken_from=names.node(before.node_id) if before is not None and other_node else "",
        moved_from=names.backend(_number(event.detail, "moved_from")),
    )


def _gap_ms(before: SessionEvent | None, event: SessionEvent) -> int | None:
    """How long the client was away: as the ledger wrote it, which counts from its last sign; else from the event of its loss."""
    if before is None or (event.old, event.new) != (State.RECONNECTING, State.ACTIVE):
        return None
    written = _number(event.detail, "gap_ms")
    return round((event.at - before.at).total_seconds() * 1000) if written is None else written


def _number(detail: Mapping[str, object], name: str) -> int | None:
    value = detail.get(name)
    return value if isinstance(value, int) else None
