"""The history with its filters, and one session with its timeline: for staff with all there is, for members in their tenant's cut.

Reads only. Refuses: to show members another tenant's sessions, numbers of what is shared with others, nodes, or operators' words.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_safe

from sessions_app.domain.states import LIVE_STATES, Reason, State
from sessions_app.providers.base import RoomEvent
from sessions_app.providers.exceptions import ProviderError
from sessions_app.runtime import backends
from sessions_app.selectors import history, room_records, timeline, usage
from sessions_app.selectors.room_records import Story
from sessions_app.services import ending
from sessions_app.views import access, present

_ANY = [("", "any")]
_MOMENT = forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S")


@dataclass(frozen=True, slots=True)
class Found:
    """One page, what was counted only in its time, and what went wrong."""

    page: history.Page
    floods: list[history.Flood]
    problem: str = ""


class HistoryForm(forms.Form):
    """What anybody may look for, and where the page is cut. Times are UTC."""

    user = forms.CharField(required=False, max_length=255, label="User")
    state = forms.ChoiceField(required=False, choices=[*_ANY, *((each.value, each.value) for each in State)], label="State")
    reason = forms.ChoiceField(required=False, choices=[*_ANY, *((each.value, each.value) for each in Reason)], label="Reason")
    since = forms.DateTimeField(required=False, label="From (UTC)", widget=_MOMENT)
    until = forms.DateTimeField(required=False, label="Before (UTC)", widget=_MOMENT)
    before = forms.UUIDField(required=False, widget=forms.HiddenInput)
    after = forms.UUIDField(required=False, widget=forms.HiddenInput)

    def __init__(self, data: QueryDict) -> None:
        super().__init__(data, use_required_attribute=False, label_suffix="")
        for name in {"tenant", "user"} & self.fields.keys():
            self.fields[name].widget.attrs |= {"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}

    def search(self, **fixed: str) -> Found:
        """Return the page asked for; nothing where what was asked for makes no sense, or took too long.

        Args:
            fixed: Filters that are not the reader's to choose.
        """
        if not self.is_valid():
            return Found(history.Page([], None, None), [])
        wanted = dict(self.cleaned_data) | fixed
        before, after = wanted.pop("before"), wanted.pop("after")
        filters = history.Filters(**wanted)
        try:
            page = history.page(filters, before=before, after=after)
            return Found(page, history.floods(filters, page))
        except history.SearchTooBroadError as error:
            return Found(history.Page([], None, None), [], str(error))


class SearchForm(HistoryForm):
    """What staff may look for, besides."""

    tenant = forms.CharField(required=False, max_length=50, label="Tenant")
    backend = forms.ChoiceField(required=False, label="Backend")
    field_order = ("tenant", "user", "state", "reason", "backend", "since", "until")

    def __init__(self, data: QueryDict, *, backends: list[str]) -> None:
        super().__init__(data)
        field = self.fields["backend"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [*_ANY, *((name, name) for name in backends)]


@require_safe
@access.page
@access.staff_only
def sessions(request: HttpRequest) -> HttpResponse:
    """Show what is in use now and one page of the history."""
    now = datetime.now(UTC)
    in_use = usage.overview(now=now)
    form = SearchForm(request.GET, backends=[each.name for each in in_use])
    found = form.search()
    context = {
        "here": "ops",
        "backends": in_use,
        "platform": usage.platform_use(),
        "rows": [(each, present.waited(each, now=now), present.talk_time(each, now=now)) for each in found.page.sessions],
        "floods": [present.flood_sentence(each) for each in found.floods],
        **_frame(request, form, found),
    }
    return render(request, "ops/sessions.html", context)


@require_safe
@access.page
@access.signed_in
def own_sessions(request: HttpRequest) -> HttpResponse:
    """Show a member one page of the history of a tenant that the member acts for, in the tenant's cut."""
    tenants = access.tenants_of(request.user)
    tenant = access.tenant_of(request.user, request.GET.get("tenant", ""))
    now = datetime.now(UTC)
    form = HistoryForm(request.GET)
    found = form.search(tenant=tenant.slug)
    context = {
        "here": "own",
        "tenants": tenants,
        "tenant": tenant,
        "rows": [
            (
                each,
                present.reason_sentence(each.reason),
                [row for row in present.members_limit_rows(each) if row.used is not None or row.full],
                present.waited(each, now=now),
                present.talk_time(each, now=now),
            )
            for each in found.page.sessions
        ],
        "floods": [present.flood_sentence(each, own=True) for each in found.floods],
        **_frame(request, form, found),
    }
    return render(request, "sessions.html", context)


@require_safe
@access.page
@access.signed_in
def own_session(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Show a member one session of a tenant that the member acts for: without nodes, operators' words and others' numbers."""
    found = access.session_of(request.user, session_id)
    now = datetime.now(UTC)
    line = timeline.of_session(found)
    context = {
        "here": "own",
        "session": found,
        "sentence": present.reason_sentence(found.reason),
        "waited": present.waited(found, now=now),
        "talk_time": present.talk_time(found, now=now),
        "limits": present.members_limit_rows(found),
        "metadata": present.metadata(found.metadata),
        "cut": line.cut,
        "entries": [
            (
                each,
                present.duration(each.after_ms),
                present.event_sentence(each.new, each.reason),
                present.cause_lines(each.detail, own=True),
            )
            for each in line.entries
        ],
    }
    return render(request, "session.html", context)


@require_safe
@access.page
@access.staff_only
def session(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Show one session: facts, limits at the verdict, timeline, and the way to end it."""
    found = access.session(session_id)
    line = timeline.of_session(found)
    is_live = found.state in LIVE_STATES
    story = room_records.story(found)
    now = datetime.now(UTC)
    context = {
        "here": "ops",
        "session": found,
        "sentence": present.reason_sentence(found.reason),
        "waited": present.waited(found, now=now),
        "talk_time": present.talk_time(found, now=now),
        "node": timeline.node_names({found.node_id}).get(found.node_id, str(found.node_id)) if found.node_id else "",
        "limits": present.limit_rows(found.limits),
        "metadata": present.metadata(found.metadata),
        "ended_by": timeline.ended_by(found),
        "end_request": timeline.end_request(found),
        "may_end": is_live and request.user.has_perm(ending.PERMISSION),
        "longest_reason": ending.MAX_DETAIL_CHARS,
        "cut": line.cut,
        "room": story.room,
        "room_rows": present.room_rows(story, _reader(story)),
        "room_cut": story.cut,
        "entries": [
            (
                each,
                present.duration(each.after_ms),
                present.event_sentence(each.new, each.reason, in_room=story.room is not None),
                present.entry_lines(each),
            )
            for each in line.entries
        ],
    }
    return render(request, "ops/session.html", context)


def _reader(story: Story) -> Callable[[Mapping[str, object]], RoomEvent] | None:
    """Return what reads the events of this room's provider; None where it is set up wrongly."""
    if story.room is None:
        return None
    try:
        return backends.with_rooms(backends.create(story.room.backend)).read_event
    except ProviderError:
        return None


def _frame(request: HttpRequest, form: HistoryForm, found: Found) -> dict[str, Any]:
    """Return what every list of sessions has around it: filters and the ways to other pages."""
    return {
        "form": form,
        "problem": found.problem,
        "older": _address(request, before=found.page.older),
        "newer": _address(request, after=found.page.newer),
        "newest": _address(request) if "before" in request.GET or "after" in request.GET else "",
        "filtered": any(request.GET.get(name) for name in form.fields if name not in {"before", "after"}),
    }


def _address(request: HttpRequest, **cut: UUID | None) -> str:
    """Return this page's address with the same filters, cut elsewhere; empty where there is nothing."""
    query = request.GET.copy()
    for name in ("before", "after"):
        query.pop(name, None)
    for name, key in cut.items():
        if key is None:
            return ""
        query[name] = str(key)
    return f"?{query.urlencode()}"
