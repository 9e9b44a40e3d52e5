"""What machines write: nodes, sessions and their events. Only to be looked at, but for the action that asks for the end of sessions.

Refuses: to add, change or delete any of them; a count of all rows of the history.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString

from sessions_app.domain.states import LIVE_STATES, Reason
from sessions_app.models import Node, Session, SessionEvent
from sessions_app.services import ending
from sessions_app.services.ending import Outcome

if TYPE_CHECKING:  # Django's own classes take no type arguments when they run
    AnyModelAdmin = admin.ModelAdmin[Any]
    EventTabularInline = admin.TabularInline[SessionEvent, Session]
    RowPaginator = Paginator[Any]
else:
    AnyModelAdmin = admin.ModelAdmin
    EventTabularInline = admin.TabularInline
    RowPaginator = Paginator

MOST_COUNTED: Final = 5_000  # rows of a list that are counted, and can be paged to


class ReadOnlyAdmin(AnyModelAdmin):
    """Rows that machines write: to be looked at."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False


class BoundedPaginator(RowPaginator):
    """Counts ``MOST_COUNTED`` rows at most: a count of all of a history takes longer than the page is worth."""

    @cached_property
    def count(self) -> int:
        """Return how many rows there are, up to the bound."""
        rows = self.object_list
        return rows.order_by()[:MOST_COUNTED].count() if isinstance(rows, QuerySet) else len(rows)


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    """Server processes and their heartbeats."""

    list_display = ("name", "pid", "state", "started_at", "heartbeat_at")
    list_filter = ("state",)
    ordering = ("-heartbeat_at",)
    paginator = BoundedPaginator
    show_full_result_count = False


class ReasonFilter(admin.SimpleListFilter):
    """From the enum: to look for the reasons that there are would read the whole history."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Every reason."""
        return [(reason.value, reason.value) for reason in Reason]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Only sessions with this reason."""
        return queryset.filter(reason=self.value()) if self.value() else queryset


class EventInline(EventTabularInline):
    """The session's events, oldest first."""

    model = SessionEvent
    extra = 0
    can_delete = False
    ordering = ("id",)
    fields = readonly_fields = ("seq", "at", "old", "new", "reason", "node_id", "actor", "detail")

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never."""
        return False


class EndForm(forms.Form):
    """Why sessions should end, if whoever asks wants to say so."""

    detail = forms.CharField(required=False, max_length=ending.MAX_DETAIL_CHARS)


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    """The record of each attempt. The history page has more filters and pages without an end."""

    list_display = ("attempt", "state", "reason", "tenant", "user", "backend", "ended")
    list_filter = ("state", ReasonFilter, "backend")
    list_select_related = ("tenant", "backend")
    search_fields = ("id",)
    search_help_text = "A whole session id."
    ordering = ("-id",)
    paginator = BoundedPaginator
    list_per_page = 50
    show_full_result_count = False
    inlines = (EventInline,)
    actions = ("end_selected",)
    fields = (
        "id", "history", "tenant", "user", "state", "reason", "detail", "backend", "pipeline", "transport", "node_id",
        "attempted_at", "started_at", "active_at", "ended_at", "limits", "metadata",
    )  # fmt: skip
    readonly_fields = ("id", "history")

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Whether the user may end sessions: the permission to change them says so, which is good for nothing else."""
        return request.user.has_perm(ending.PERMISSION)

    @admin.action(description="End the selected sessions", permissions=["end"])
    def end_selected(self, request: HttpRequest, sessions: QuerySet[Session]) -> HttpResponse | None:
        """Show how many would end and ask why; then ask for their ends."""
        ids = list(sessions.order_by().values_list("pk", flat=True)[: ending.MAX_AT_ONCE + 1])
        if len(ids) > ending.MAX_AT_ONCE:
            self.message_user(request, f"At most {ending.MAX_AT_ONCE} at once: none was asked to end.", messages.ERROR)
            return None
        if "confirmed" not in request.POST:
            live = sessions.filter(state__in=LIVE_STATES).count()
            if not live:
                self.message_user(request, "Nothing to do: all of them are over.")
                return None
            context = {**self.admin_site.each_context(request), "opts": self.opts, "title": "End the selected sessions", "ids": ids}
            context |= {"live": live, "longest_reason": ending.MAX_DETAIL_CHARS}
            return TemplateResponse(request, "admin/sessions_app/session/end_selected.html", context)
        form = EndForm(request.POST)
        if not form.is_valid():
            self.message_user(request, "The reason is too long: nothing was asked for.", messages.ERROR)
            return None
        outcomes = ending.request_ends(session_ids=ids, actor=request.user.get_username(), detail=form.cleaned_data["detail"])
        count = Counter(outcomes.values())
        asked = f"Asked to end: {count[Outcome.ASKED]}."
        others = ((Outcome.ASKED_ALREADY, "Asked before"), (Outcome.OVER, "Over already"), (Outcome.UNKNOWN, "Gone"))
        told = [asked, *(f"{words}: {count[each]}." for each, words in others if count[each])]
        self.message_user(request, " ".join(told), messages.SUCCESS if count[Outcome.ASKED] else messages.WARNING)
        return None

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        """Find by id alone, which costs nothing however long the history is."""
        if not search_term.strip():
            return queryset, False
        try:
            return queryset.filter(pk=UUID(search_term.strip())), False
        except ValueError:
            return queryset.none(), False

    @admin.display(description="attempted at (UTC)")
    def attempt(self, session: Session) -> str:
        """To the second."""
        return f"{session.attempted_at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="ended at (UTC)")
    def ended(self, session: Session) -> str:
        """To the second."""
        return f"{session.ended_at:%Y-%m-%d %H:%M:%S}" if session.ended_at else "–"

    @admin.display(description="timeline")
    def history(self, session: Session) -> SafeString:
        """The way to the page with the timeline."""
        return format_html('<a href="{}">Open in the history</a>', reverse("ops-session", args=[session.pk]))
