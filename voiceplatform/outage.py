"""The answer to every HTTP request that the database could not be asked for: 503 and when to come again, instead of an error page.

Owns: that answer, for people and for programs. Refuses: to hide a defect: only what means that the database is away, or does not answer in
time, is taken for an outage, and its kind is logged.
Limits: what fails outside of a view (a session that cannot be saved behind it) is still Django's own error.
"""

import logging
from typing import Final

import psycopg
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from django.utils.deprecation import MiddlewareMixin

from sessions_app.domain.states import MEANINGS, Reason
from sessions_app.services.exceptions import Unavailable

logger = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 5
_AWAY: Final = (OperationalError, InterfaceError, psycopg.OperationalError, psycopg.InterfaceError, Unavailable)


class OutageMiddleware(MiddlewareMixin):
    """Answers a view's failure to reach the database; the innermost of the middlewares, since it looks at views only."""

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Return the answer, None where the error is none of an outage."""
        if not isinstance(error, _AWAY):
            return None
        logger.warning("a request could not be answered, the database is away: %s", type(error.__cause__ or error).__name__)
        # Programs and scripts ask for anything, browsers that open a page name HTML.
        answer = _page() if "text/html" in request.headers.get("Accept", "") else _told()
        answer["Retry-After"] = str(RETRY_AFTER_S)
        answer["Cache-Control"] = "no-store"
        return answer


def _told() -> HttpResponse:
    return JsonResponse({"code": Reason.UNAVAILABLE.value, "message": MEANINGS[Reason.UNAVAILABLE].message}, status=503)


def _page() -> HttpResponse:
    # Without the request: whose name to show is in the database.
    return HttpResponse(loader.get_template("503.html").render(), status=503)
