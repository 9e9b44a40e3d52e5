"""Attempts that this process refused without asking the ledger: counted here, and written once a second.

A credential that is not good, another site's page, a process that drains or is full, a store that is away: none of these has a record,
and a flood of them must not cost a transaction each. What could not be written is kept, and written with its time when the database
is back.
Limits: ``MAX_KEPT`` combinations of second, tenant and reason; beyond them only the sum of a tenant and reason is right, not its seconds.
"""

import time
from collections import Counter
from typing import Final

from django.db import Error as DatabaseError

from sessions_app.domain.states import Reason
from sessions_app.runtime.database import in_thread
from sessions_app.services import refusals

MAX_KEPT: Final = 10_000
NOBODY: Final = 0  # in place of a tenant that is not known

# What a client is told without a record of the ledger's.
WITHOUT_RECORD: Final = frozenset(
    {
        Reason.AUTHENTICATION_FAILED,
        Reason.NODE_DRAINING,
        Reason.OVERLOADED,
        Reason.UNAVAILABLE,
    }
)

_counts: Counter[tuple[int, int, str]] = Counter()


def note(reason: Reason, tenant_id: int = NOBODY) -> None:
    """Count one refusal now. On the event loop only."""
    key = (int(time.monotonic()), tenant_id, reason.value)
    if len(_counts) >= MAX_KEPT and key not in _counts:
        key = (0, tenant_id, reason.value)
    _counts[key] += 1


async def write() -> None:
    """Write what was counted since the last time.

    Raises:
        django.db.Error: the database is away; the next call writes it.
    """
    if not _counts:
        return
    taken = dict(_counts)
    _counts.clear()
    now = time.monotonic()
    try:
        # Seconds that are not known (0) are told as now.
        rows = [(max(0.0, now - second) if second else 0.0, tenant, reason, count) for (second, tenant, reason), count in taken.items()]
        await in_thread(refusals.count, rows)
    except DatabaseError:
        _counts.update(taken)
        raise
