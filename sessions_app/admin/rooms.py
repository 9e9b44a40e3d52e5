"""What is known of rooms: our records, what providers told by webhook, and what they and the platform did not agree on. To be looked at.

Owns: the action that has webhooks processed once more. Refuses: to change what was told.
"""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from sessions_app.admin.records import BoundedPaginator, ReadOnlyAdmin
from sessions_app.models import Drift, Room, WebhookEvent, WebhookRefusal
from sessions_app.services import inbox

REPLAY: str = "sessions_app.change_webhookevent"
_MOMENT = "%Y-%m-%d %H:%M:%S"


def _moment(field: str, words: str) -> Callable[[Any, Any], str]:
    """Return a field that shows a time to the millisecond, which Django's own form of it hides."""

    @admin.display(description=f"{words} (UTC)")
    def shown(_: Any, row: Any) -> str:
        at = getattr(row, field)
        return f"{at:{_MOMENT}.%f}"[:-3] if at else "–"

    return shown


class RecordsAdmin(ReadOnlyAdmin):
    """Rows of a history that may be long: counted up to a bound, found by what an index serves."""

    paginator = BoundedPaginator
    list_per_page = 50
    show_full_result_count = False
    list_select_related = ("backend",)

    @admin.display(description="session")
    def session_link(self, row: Any) -> SafeString | str:
        """The way to its timeline."""
        if row.session_id is None:
            return "–"
        # The end of an id tells sessions of one day apart; it is not broken behind the dots.
        return format_html('<a href="{}">…\u2060{}</a>', reverse("ops-session", args=[row.session_id]), str(row.session_id)[-8:])


class YesNoFilter(admin.SimpleListFilter):
    """Two kinds of rows, told apart by whether a field is set."""

    field = ""
    words = ("", "")  # unset, set

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Both kinds."""
        return [("no", self.words[0]), ("yes", self.words[1])]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Those of the kind."""
        return queryset.filter(**{f"{self.field}__isnull": self.value() == "no"}) if self.value() else queryset


class ClosedFilter(YesNoFilter):
    """Whether the provider still has it."""

    title, parameter_name, field, words = "state", "closed", "closed_at", ("open", "closed")


class ProcessedFilter(YesNoFilter):
    """Whether anything was made of it yet."""

    title, parameter_name, field, words = "processed", "processed", "processed_at", ("waiting", "processed")


@admin.register(Room)
class RoomAdmin(RecordsAdmin):
    """The room of each session that had one, newest first."""

    list_display = ("made", "session_link", "backend", "who", "waits_for", "closed")
    list_filter = (ClosedFilter, "backend")
    search_fields = ("pk",)
    search_help_text = "A whole session id."
    ordering = ("-pk",)
    fields = readonly_fields = (
        "session_link", "backend", "name", "made_exactly", "generation", "join_until", "agent_until", "agent_tries", "user_here",
        "agent_here", "asked", "close_tries", "closed_exactly", "due",
    )  # fmt: skip
    made_exactly, closed_exactly = _moment("made_at", "made"), _moment("closed_at", "closed")
    join_until, agent_until = _moment("join_by", "user must join by"), _moment("agent_by", "agent must join by")
    asked, due = _moment("seen_at", "server asked who is there"), _moment("due_at", "looked after again")

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        """Find by id alone."""
        if not search_term.strip():
            return queryset, False
        session_id = _uuid(search_term)
        return (queryset.filter(pk=session_id) if session_id else queryset.none()), False

    @admin.display(description="who is there")
    def who(self, room: Room) -> str:
        """User, agent, both or neither."""
        return " and ".join(who for who, here in (("user", room.user_here), ("agent", room.agent_here)) if here) or "nobody"

    @admin.display(description="made (UTC)")
    def made(self, room: Room) -> str:
        """To the second."""
        return f"{room.made_at:{_MOMENT}}"

    @admin.display(description="closed (UTC)")
    def closed(self, room: Room) -> str:
        """To the second."""
        return f"{room.closed_at:{_MOMENT}}" if room.closed_at else "–"

    @admin.display(description="waits for")
    def waits_for(self, room: Room) -> str:
        """Whom, and until when."""
        if room.closed_at:
            return "–"
        waits = [f"{who} until {at:%H:%M:%S}" for who, at in (("user", room.join_by), ("agent", room.agent_by)) if at]
        return ", ".join(waits) or "nobody"


@admin.register(WebhookEvent)
class WebhookEventAdmin(RecordsAdmin):
    """The inbox: what providers told, newest first, each with what was made of it."""

    list_display = ("received", "name", "backend", "session_link", "verdict", "took")
    list_display_links = ("received", "name")
    list_filter = (ProcessedFilter, "backend")
    search_fields = ("event_id",)
    search_help_text = "A whole session id, room name or event id."
    ordering = ("-pk",)
    actions = ("replay",)
    fields = readonly_fields = (
        "received", "name", "event_id", "backend", "room", "session_link", "processed", "verdict", "attempts", "told",
    )  # fmt: skip
    received, processed = _moment("received_at", "received"), _moment("processed_at", "processed")

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Whether the user may: the permission to change events says so, which is good for nothing else."""
        return request.user.has_perm(REPLAY)

    @admin.action(description="Process the selected events once more", permissions=["replay"])
    def replay(self, request: HttpRequest, events: QuerySet[WebhookEvent]) -> None:
        """Have them processed as if they had just come; what they say twice changes nothing."""
        ids = list(events.order_by().values_list("pk", flat=True)[: inbox.MAX_REPLAYED + 1])
        if len(ids) > inbox.MAX_REPLAYED:
            self.message_user(request, f"At most {inbox.MAX_REPLAYED} at once: none was taken.", messages.ERROR)
            return
        count = inbox.replay(ids=ids)
        replayed = WebhookEvent.objects.filter(pk__in=ids)
        LogEntry.objects.log_actions(request.user.pk or 0, replayed, CHANGE, change_message="Processed once more.")
        self.message_user(request, f"Being processed once more: {count}. What was made of them is here in a second.", messages.SUCCESS)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        """Find by what an index serves."""
        term = search_term.strip()
        if not term:
            return queryset, False
        session_id = _uuid(term.removeprefix("voice-"))
        return queryset.filter(Q(session_id=session_id) if session_id else Q(event_id=term)), False

    @admin.display(description="processed after")
    def took(self, event: WebhookEvent) -> str:
        """From coming in to its verdict."""
        return f"{(event.processed_at - event.received_at).total_seconds() * 1000:.0f} ms" if event.processed_at else "waits"

    @admin.display(description="what it said")
    def told(self, event: WebhookEvent) -> SafeString:
        """The body, without secrets, laid out."""
        return format_html("<pre>{}</pre>", json.dumps(event.body, indent=2, ensure_ascii=False, sort_keys=True))


@admin.register(Drift)
class DriftAdmin(RecordsAdmin):
    """What provider and platform did not agree on, and what was done about it, newest first."""

    list_display = ("found", "what", "backend", "about", "done")
    list_display_links = ("found",)
    list_filter = ("kind", "backend")
    search_fields = ("room",)
    search_help_text = "A part of a room's name, which has its session's id."
    ordering = ("-at",)
    fields = readonly_fields = ("found", "what", "backend", "room", "sid", "session_link", "participant", "detail")

    @admin.display(description="found (UTC)", ordering="at")
    def found(self, drift: Drift) -> str:
        """To the second."""
        return f"{drift.at:{_MOMENT}}"

    @admin.display(description="room")
    def about(self, drift: Drift) -> SafeString | str:
        """By its session, where it is one's."""
        return drift.room if drift.session_id is None else self.session_link(drift)

    @admin.display(description="what was done")
    def done(self, drift: Drift) -> str:
        """And to whom."""
        return f"{drift.detail} ({drift.participant})" if drift.participant else drift.detail

    @admin.display(description="what")
    def what(self, drift: Drift) -> str:
        """The kind, in words."""
        return drift.get_kind_display()


@admin.register(WebhookRefusal)
class WebhookRefusalAdmin(RecordsAdmin):
    """How many webhooks were refused, minute by minute, newest first."""

    list_display = ("at", "backend", "reason", "count")
    list_display_links = None
    list_filter = ("backend",)
    ordering = ("-minute",)
    fields = readonly_fields = ("at", "backend", "reason", "count")

    @admin.display(description="minute (UTC)", ordering="minute")
    def at(self, row: WebhookRefusal) -> str:
        """Without seconds."""
        return f"{row.minute:%Y-%m-%d %H:%M}"


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text.strip())
    except ValueError:
        return None
