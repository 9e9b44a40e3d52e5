"""The tick of the queue: promotions that no session's end brings about (a raised limit, a backend that is healthy again)."""

from typing import Final

from django.db import connection

from sessions_app.services import claims

CLAIM: Final = "promote"


def promotion_is_due(*, holder: str, seconds: float) -> bool:
    """Whether somebody waits and nobody else has looked for so many seconds; then it is claimed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM sessions_app_capacity WHERE queued > 0)")
        waits: bool = cursor.fetchall()[0][0]
    return waits and claims.claim(name=CLAIM, holder=holder, seconds=seconds)
