"""The button that ends a session. Staff only, with the permission that the admin's action asks for, too."""

from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from sessions_app.services import ending
from sessions_app.services.ending import Outcome
from sessions_app.views import access


class EndForm(forms.Form):
    """Why, if whoever asks wants to say so."""

    detail = forms.CharField(required=False, max_length=ending.MAX_DETAIL_CHARS)


@access.page
@access.staff_only
def end(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """Ask for the end, and go back to the session's page, which says what became of it. Any other method only goes back."""
    session = access.session(session_id)
    if request.method == "POST":
        _ask(request, session.pk)
    return redirect("ops-session", session.pk)


def _ask(request: HttpRequest, session_id: UUID) -> None:
    form = EndForm(request.POST)
    if not request.user.has_perm(ending.PERMISSION):
        messages.error(
            request,
            "You may not end sessions: an administrator can give you the permission “Voice sessions | session | Can change session”.",
        )
    elif not form.is_valid():
        messages.error(request, f"Nothing was asked for: the reason may have {ending.MAX_DETAIL_CHARS} characters.")
    else:
        detail = form.cleaned_data["detail"]
        match ending.request_end(session_id=session_id, actor=request.user.get_username(), detail=detail):
            case Outcome.ASKED:
                messages.success(request, "The session is being ended.")
            case Outcome.ASKED_ALREADY:
                messages.warning(request, "Somebody asked for its end before you did.")
            case _:
                messages.warning(request, "The session was over already.")
