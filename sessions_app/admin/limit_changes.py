"""Who changed which limit, from what to what, when and why: a list, and the last ones on the pages of tenants and backends. Read only."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from sessions_app.admin.records import BoundedPaginator, ReadOnlyAdmin
from sessions_app.models import LimitChange
from sessions_app.selectors import limit_changes
from sessions_app.selectors.limit_changes import Change
from tenants.models import Tenant

SCOPES = ("tenant", "backend", "platform")


class ScopeFilter(admin.SimpleListFilter):
    """What the limit is set on."""

    title = "scope"
    parameter_name = "scope"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Every scope that limits are edited on."""
        return [(each, each) for each in SCOPES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Only changes of this scope."""
        return queryset.filter(scope=self.value()) if self.value() else queryset


@admin.register(LimitChange)
class LimitChangeAdmin(ReadOnlyAdmin):
    """The record of limits, newest first; found by a tenant's slug or a backend's name."""

    list_display = ("when", "who", "what", "changed", "why")
    list_display_links = None
    list_filter = (ScopeFilter,)
    search_fields = ("ref",)  # the search itself is below
    search_help_text = "A tenant's slug or a backend's name, all of it."
    ordering = ("-seq",)
    paginator = BoundedPaginator
    list_per_page = 50
    show_full_result_count = False
    fields = readonly_fields = ("when", "who", "what", "changed", "why", "seq", "db_user")

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        """Find by name alone, which an index serves."""
        name = search_term.strip()
        return (queryset & limit_changes.named(name) if name else queryset), False

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        """Read the page's rows at once."""
        found = super().get_changelist_instance(request)
        rows = list(found.result_list)
        for row, change in zip(rows, limit_changes.described(rows), strict=True):
            row._change = change
        found.result_list = rows
        return found

    @admin.display(description="when (UTC)", ordering="seq")
    def when(self, row: LimitChange) -> str:
        """To the second."""
        return f"{row.at:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="who")
    def who(self, row: LimitChange) -> str:
        """The actor, or the database's user."""
        return _change(row).who

    @admin.display(description="what")
    def what(self, row: LimitChange) -> str:
        """The row that was changed."""
        return _change(row).what

    @admin.display(description="from → to")
    def changed(self, row: LimitChange) -> SafeString | str:
        """One line a field."""
        change = _change(row)
        lines = format_html_join("", "<div>{}</div>", ((each,) for each in change.fields))
        return change.told if change.made or not lines else lines

    @admin.display(description="why")
    def why(self, row: LimitChange) -> str:
        """As they said it."""
        return _change(row).why or "–"


def _change(row: LimitChange) -> Change:
    """Return what the row says, read once for all of its columns."""
    found: Change | None = getattr(row, "_change", None)
    if found is None:
        found = limit_changes.described([row])[0]
        row._change = found  # type: ignore[attr-defined]  # a note on the instance, not a field
    return found


def last_changes(*, scope: str, ref: int, name: str) -> SafeString:
    """Return the last changes of a tenant's or backend's limits as HTML, with the way to all of them."""
    changes = limit_changes.latest(scope=scope, ref=ref)
    lines = format_html_join(
        "",
        "<p>{} UTC, <strong>{}</strong>: {}{}</p>",
        ((f"{each.at:%Y-%m-%d %H:%M:%S}", each.who, _line(each), f" “{each.why}”" if each.why else "") for each in changes),
    )
    address = reverse("admin:sessions_app_limitchange_changelist")
    return format_html(
        '<div class="limit-changes">{}</div><p><a href="{}?scope={}&amp;q={}">All of them</a></p>', lines, address, scope, name
    )


def changes_panel(tenant: Tenant) -> SafeString:
    """Return the last changes of a tenant's limits, for its page."""
    return last_changes(scope="tenant", ref=tenant.pk, name=tenant.slug)


def _line(change: Change) -> str:
    """Leave out whose it is, which the page says, and what it is where that is what the page is about."""
    kind = change.what.partition(" ")[0]
    return change.told if kind in {"quota", "backend"} and not change.made else f"{kind} {change.told}"
