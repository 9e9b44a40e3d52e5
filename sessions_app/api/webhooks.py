"""The door for providers' webhooks: ``POST /webhooks/<provider>/<backend>/``.

Owns: the size and the statuses. 200 says stored, so the provider need not tell it again; 401 a wrong signature, 413 a body above
``MAX_BODY_BYTES``, 404 a backend that there is not. Refuses: everything about what an event says; cookies, and so CSRF.
"""

from http import HTTPStatus
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from sessions_app.runtime import webhooks
from sessions_app.runtime.webhooks import Received

MAX_BODY_BYTES: Final = 64 * 1024

_STATUS: Final = {
    Received.STORED: HTTPStatus.OK,
    Received.REPEATED: HTTPStatus.OK,
    Received.UNKNOWN: HTTPStatus.NOT_FOUND,
    Received.WRONG_SIGNATURE: HTTPStatus.UNAUTHORIZED,
    Received.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


@csrf_exempt
def receive(request: HttpRequest, provider: str, backend: str) -> HttpResponse:
    """Take one event."""
    if request.method != "POST":
        return HttpResponse(status=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "POST"})
    # One byte more than allowed is enough to see that there is too much; the length that the sender states proves nothing.
    body = request.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        outcome = webhooks.too_large(provider=provider, backend=backend)
    else:
        outcome = webhooks.receive(
            provider=provider, backend=backend, body=body, authorization=request.headers.get("Authorization", "")[:8192]
        )
    return HttpResponse(status=_STATUS[outcome], content_type="text/plain", headers={"Cache-Control": "no-store"})
