"""What the platform's gauges tell, read by one process at a time.

Every node tries to claim it; who has the claim reads the counts and keeps them for as long as the claim holds, by its own clock from
before it asked. So what a killed or frozen process has read is told no more when another one may claim it, and nothing is counted twice.
"""

import time
from typing import Final

from sessions_app.runtime import telemetry
from sessions_app.runtime.database import in_thread
from sessions_app.selectors import observed
from sessions_app.services import claims

OBSERVE_S: Final = 5.0  # how often a node tries
CLAIM_S: Final = 15.0  # three tries: one that is late loses nothing
CLAIM: Final = "metrics"


async def observe_round(*, holder: str) -> None:
    """Claim the gauges for ``holder`` and read what they tell, unless somebody else has them. Nothing where nobody exports them.

    Raises:
        django.db.Error: the database is away; what was read before is told until its time is over.
    """
    if not telemetry.observing():
        return
    asked_at = time.monotonic()
    found = await in_thread(_look, holder)
    telemetry.observed(found or (), until=asked_at + CLAIM_S)


def _look(holder: str) -> list[telemetry.BackendNow] | None:
    if not claims.claim(name=CLAIM, holder=holder, seconds=CLAIM_S):
        return None
    return [telemetry.BackendNow(name, active, healthy) for name, active, healthy in observed.backends()]
