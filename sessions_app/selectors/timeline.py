"""Reads of one session's life: its events in the order in which they happened, with names instead of ids."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sessions_app.models import Backend, Node, Session, SessionEvent

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


@dataclass(frozen=True, slots=True)
class Timeline:
    """The first ``MOST_EVENTS`` events, oldest first; ``cut`` where there are more."""

    entries: list[Entry]
    cut: bool


def of_session(session: Session) -> Timeline:
    """Return what happened to a session."""
    events = list(SessionEvent.objects.filter(session_id=session.pk).order_by("id")[: MOST_EVENTS + 1])
    cut, events = len(events) > MOST_EVENTS, events[:MOST_EVENTS]
    nodes = node_names({event.node_id for event in events if event.node_id})
    backends = dict(Backend.objects.filter(pk__in={event.backend_id for event in events}).values_list("pk", "name"))
    return Timeline([_entry(event, session, nodes, backends) for event in events], cut)


def node_names(ids: set[UUID]) -> dict[UUID, str]:
    """Return the names of nodes as people know them; a node without a row is left out."""
    return dict(Node.objects.filter(pk__in=ids).values_list("pk", "name"))


def _entry(event: SessionEvent, session: Session, nodes: dict[UUID, str], backends: dict[int, str]) -> Entry:
    return Entry(
        seq=event.seq,
        at=event.at,
        after_ms=round((event.at - session.attempted_at).total_seconds() * 1000),
        old=event.old,
        new=event.new,
        reason=event.reason,
        node=nodes.get(event.node_id, str(event.node_id)) if event.node_id else "",
        backend=backends.get(event.backend_id, "") if event.backend_id else "",
        actor=event.actor,
        detail=event.detail,
    )
