"""The pages of ops: what is live now, the history with its filters, one session with its timeline. Staff only; reads only."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_safe

from sessions_app.domain.states import LIVE_STATES, Reason, State
from sessions_app.selectors import history, timeline, usage
from sessions_app.services import ending
from sessions_app.views import access, present

_ANY = [("", "any")]
_MOMENT = forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S")


class SearchForm(forms.Form):
    """What to look for, and where the page is cut. Times are UTC."""

    tenant = forms.CharField(required=False, max_length=50, label="Tenant")
    user = forms.CharField(required=False, max_length=255, label="User")
    state = forms.ChoiceField(required=False, choices=[*_ANY, *((each.value, each.value) for each in State)], label="State")
    reason = forms.ChoiceField(required=False, choices=[*_ANY, *((each.value, each.value) for each in Reason)], label="Reason")
    backend = forms.ChoiceField(required=False, label="Backend")
    since = forms.DateTimeField(required=False, label="From (UTC)", widget=_MOMENT)
    until = forms.DateTimeField(required=False, label="Before (UTC)", widget=_MOMENT)
    before = forms.UUIDField(required=False, widget=forms.HiddenInput)
    after = forms.UUIDField(required=False, widget=forms.HiddenInput)

    def __init__(self, data: QueryDict, *, backends: list[str]) -> None:
        super().__init__(data, use_required_attribute=False, label_suffix="")
        field = self.fields["backend"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [*_ANY, *((name, name) for name in backends)]
        for name in ("tenant", "user"):
            self.fields[name].widget.attrs |= {"autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}

    def search(self) -> history.Page:
        """Return the page asked for; nothing where what was asked for makes no sense.

        Raises:
            SearchTooBroadError: it took too long.
        """
        if not self.is_valid():
            return history.Page([], None, None)
        wanted = dict(self.cleaned_data)
        before, after = wanted.pop("before"), wanted.pop("after")
        return history.page(history.Filters(**wanted), before=before, after=after)


@require_safe
@access.page
@access.staff_only
def sessions(request: HttpRequest) -> HttpResponse:
    """Show what is in use now and one page of the history."""
    now = datetime.now(UTC)
    backends = usage.overview(now=now)
    form = SearchForm(request.GET, backends=[each.name for each in backends])
    problem = ""
    try:
        found = form.search()
    except history.SearchTooBroadError as error:
        found, problem = history.Page([], None, None), str(error)
    context: dict[str, Any] = {
        "here": "ops",
        "backends": backends,
        "platform": usage.platform_use(),
        "form": form,
        "problem": problem,
        "rows": [(each, present.talk_time(each, now=now)) for each in found.sessions],
        "older": _address(request, before=found.older),
        "newer": _address(request, after=found.newer),
        "newest": _address(request) if "before" in request.GET or "after" in request.GET else "",
        "filtered": any(request.GET.get(name) for name in form.fields if name not in {"before", "after"}),
    }
    return render(request, "ops/sessions.html", context)


@require_safe
@access.page
@access.staff_only
def session(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Show one session: facts, limits at the verdict, timeline, and the way to end it."""
    found = access.session(session_id)
    line = timeline.of_session(found)
    is_live = found.state in LIVE_STATES
    context = {
        "here": "ops",
        "session": found,
        "sentence": present.reason_sentence(found.reason),
        "talk_time": present.talk_time(found, now=datetime.now(UTC)),
        "node": timeline.node_names({found.node_id}).get(found.node_id, str(found.node_id)) if found.node_id else "",
        "limits": present.limit_rows(found.limits),
        "metadata": present.metadata(found.metadata),
        "ended_by": timeline.ended_by(found),
        "end_request": timeline.end_request(found),
        "may_end": is_live and request.user.has_perm(ending.PERMISSION),
        "longest_reason": ending.MAX_DETAIL_CHARS,
        "cut": line.cut,
        "entries": [
            (each, present.duration(each.after_ms), present.event_sentence(each.new, each.reason), present.entry_lines(each))
            for each in line.entries
        ],
    }
    return render(request, "ops/session.html", context)


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
