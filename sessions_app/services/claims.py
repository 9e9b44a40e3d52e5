"""Who does a job that one process at a time should do: taken and renewed by a compare-and-set with an expiry, by the database's clock.

No lock is held meanwhile, so that a holder that dies or freezes keeps it until the expiry and no longer.
"""

from typing import Final

from django.db import connection

_CLAIM: Final = """
INSERT INTO sessions_app_claim AS c (name, holder, until, done_at)
VALUES (%(name)s, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s), clock_timestamp())
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until, done_at = excluded.done_at
WHERE c.until IS NULL OR c.until < clock_timestamp() OR c.holder = excluded.holder
RETURNING name"""

_CLAIM_DUE: Final = """
INSERT INTO sessions_app_claim AS c (name, holder, until, done_at)
VALUES (%(name)s, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s), NULL)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE (c.until IS NULL OR c.until < clock_timestamp())
  AND (c.done_at IS NULL OR c.done_at < clock_timestamp() - make_interval(secs => %(age)s))
RETURNING name"""
_DONE: Final = """
UPDATE sessions_app_claim SET until = NULL, done_at = CASE WHEN %s THEN clock_timestamp() ELSE done_at END
WHERE name = %s AND holder = %s"""


def claim(*, name: str, holder: str, seconds: float) -> bool:
    """Claim a job for so many seconds, or renew one's own claim; False where somebody else has it."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"name": name, "holder": holder[:100], "seconds": seconds})
        return cursor.fetchone() is not None


def claim_due(*, name: str, holder: str, seconds: float, age_s: float) -> bool:
    """Claim a job that nobody has done for ``age_s`` seconds; False where somebody has it or has done it."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM_DUE, {"name": name, "holder": holder[:100], "seconds": seconds, "age": age_s})
        return cursor.fetchone() is not None


def give_back(*, name: str, holder: str, done: bool) -> None:
    """Give back one's own claim; ``done``: the job was done just now."""
    with connection.cursor() as cursor:
        cursor.execute(_DONE, (done, name, holder[:100]))
