"""Who may see what: every page asks here and nowhere else.

Staff see the pages of ops; members act for their tenants. Whoever may not see a thing is told that it is not there (404), signed in or
not staff alike; who is not signed in at all is sent to the login first. Also: the headers that every page has.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Final
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache

from sessions_app.models import Session
from sessions_app.selectors import history
from tenants import selectors
from tenants.exceptions import NotAMember
from tenants.models import Tenant

View = Callable[..., HttpResponse]

# Scripts and styles come from files of our own only; the WebSocket is at the same host. The one page that goes to media servers names them.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' {reaches}; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)


def page(view: View) -> View:
    """Make a view a page: never cached, with a strict content policy, and the microphone for this site alone."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        response.setdefault("Content-Security-Policy", content_policy(request))
        response["Permissions-Policy"] = "microphone=(self), camera=(), geolocation=()"
        return response

    return never_cache(wrapped)


def content_policy(request: HttpRequest, *, reaches: Iterable[str] = ()) -> str:
    """Return the policy of a page whose scripts connect to this host, and to the origins that it ``reaches`` besides."""
    # Some browsers do not take 'self' for a WebSocket.
    socket = f"{'wss' if request.is_secure() else 'ws'}://{request.get_host()}"
    return CONTENT_SECURITY_POLICY.format(reaches=" ".join([socket, *sorted(reaches)]))


def staff_only(view: View) -> View:
    """Let staff in; others are told that there is nothing, after they have signed in."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        if not request.user.is_staff:
            raise Http404
        return view(request, *args, **kwargs)

    return wrapped


def signed_in(view: View) -> View:
    """Let whoever is signed in reach the view, which then asks for the user's tenants."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        return view(request, *args, **kwargs)

    return wrapped


def is_member(user: AbstractBaseUser | AnonymousUser) -> bool:
    """Whether the signed-in user acts for any tenant."""
    return user.is_authenticated and selectors.memberships(user).exists()


def tenants_of(user: AbstractBaseUser | AnonymousUser) -> list[Tenant]:
    """Return the tenants that a user may act for, the one joined first first.

    Raises:
        Http404: there are none.
    """
    tenants = [membership.tenant for membership in selectors.memberships(user)]
    if not tenants:
        raise Http404
    return tenants


def tenant_of(user: AbstractBaseUser | AnonymousUser, slug: str) -> Tenant:
    """Return the tenant with this slug if the user may act for it; with an empty slug the one joined first.

    Raises:
        Http404: the user may not, or there is no such tenant.
    """
    try:
        return selectors.tenant_for_member(user, slug or None)
    except NotAMember:
        raise Http404 from None


def session_of(user: AbstractBaseUser | AnonymousUser, session_id: UUID) -> Session:
    """Return a session of a tenant that the user acts for.

    Raises:
        Http404: there is no such session, or it is another tenant's; told alike.
    """
    tenants = {tenant.pk for tenant in tenants_of(user)}
    found = history.session(session_id)
    if found is None or found.tenant_id not in tenants:
        raise Http404
    return found


def session(session_id: UUID) -> Session:
    """Return a session, for views that let staff alone in.

    Raises:
        Http404: there is no such session.
    """
    found = history.session(session_id)
    if found is None:
        raise Http404
    return found
