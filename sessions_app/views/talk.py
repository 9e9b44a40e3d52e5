"""The talk page, and the pass that it asks for when somebody presses the button.

Owns: the ways to call that the page offers, and one connect token for one press, for a member of the tenant. Refuses: tokens in the page,
which would outlive their minute there, and admission, which the WebSocket asks for.
"""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from sessions_app.domain.states import MEANINGS
from sessions_app.models import Backend
from sessions_app.providers.exceptions import ProviderError
from sessions_app.runtime import backends
from sessions_app.selectors import ways
from sessions_app.services import tokens
from sessions_app.views import access


@require_safe
@access.page
@access.signed_in
def talk(request: HttpRequest) -> HttpResponse:
    """Show the page to a member of at least one tenant."""
    tenants = access.tenants_of(request.user)
    usable = ways.usable_backends(tenant.pk for tenant in tenants)
    context = {
        "here": "talk",
        "tenants": tenants,
        "ways": {tenant.slug: [asdict(way) for way in ways.ways(usable[tenant.pk])] for tenant in tenants},
        "reasons": {reason.value: meaning.message for reason, meaning in MEANINGS.items()},
    }
    response = render(request, "talk.html", context)
    reached = {row.pk: row for rows in usable.values() for row in rows}.values()
    response["Content-Security-Policy"] = access.content_policy(request, reaches=_origins(reached))
    return response


def _origins(rows: Iterable[Backend]) -> set[str]:
    """Return where the browser goes by itself when it calls these; a backend that is set up wrongly is reached nowhere."""
    found: set[str] = set()
    for row in rows:
        try:
            found |= backends.create(row).client_origins
        except ProviderError:
            continue
    return found


@require_safe
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    """Send people to the page that is theirs: staff who act for no tenant to the history, everybody else to talk."""
    return redirect("ops-sessions" if request.user.is_staff and not access.is_member(request.user) else "talk")


@require_POST
@never_cache
def token(request: HttpRequest) -> HttpResponse:
    """Answer 201 with a connect token for the tenant named in the form; errors are JSON, since a script reads them."""
    if not request.user.is_authenticated:
        return _refusal(401, "authentication_failed", "You are signed out. Reload the page and sign in again.")
    try:
        tenant = access.tenant_of(request.user, request.POST.get("tenant", ""))
    except Http404:
        return _refusal(404, "not_found", "You may not talk for this organisation.")
    issued = tokens.issue_connect_token(tenant_id=tenant.pk, user=request.user.get_username(), now=datetime.now(UTC))
    return JsonResponse(
        {"token": issued.token, "ws_url": tokens.socket_url(host=request.get_host(), secure=request.is_secure())}, status=201
    )


def _refusal(status: int, code: str, message: str) -> JsonResponse:
    return JsonResponse({"code": code, "message": message}, status=status)
