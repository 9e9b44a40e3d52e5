"""Probes: ask each enabled backend whether it is well, and write down what it said. Celery does it; nodes do what Celery has not done."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable

from django.conf import settings

from sessions_app.models import Backend
from sessions_app.providers.base import Provider
from sessions_app.providers.exceptions import ProviderError
from sessions_app.runtime import backends
from sessions_app.runtime.database import in_thread
from sessions_app.services import health

logger = logging.getLogger(__name__)


async def probe_due(*, age_s: float, provider_for: Callable[[int], Awaitable[Provider]] = backends.provider_for) -> int:
    """Probe every enabled backend that nobody has probed for ``age_s`` seconds, all at once, and return how many this call probed."""
    due = await in_thread(health.due, age_s=age_s)
    return sum(await asyncio.gather(*(_probe(each, age_s, provider_for) for each in due)))


async def probe_due_once(*, age_s: float) -> int:
    """The same for a process without an event loop of its own: providers are made for this call and closed after it."""

    made: list[Provider] = []

    async def make(backend_id: int) -> Provider:
        made.append(backends.create(await backends.load(backend_id)))
        return made[-1]

    try:
        return await probe_due(age_s=age_s, provider_for=make)
    finally:
        await asyncio.gather(*(each.aclose() for each in made), return_exceptions=True)


async def try_out(backend: Backend) -> health.Outcome:
    """Probe a backend as this row has it, saved or not, and return what was seen, which is written down nowhere."""
    made: list[Provider] = []

    async def make() -> Provider:
        made.append(backends.create(backend))
        return made[0]

    try:
        return await _ask(make, name=backend.name)
    finally:
        await asyncio.gather(*(each.aclose() for each in made), return_exceptions=True)


async def _ask(provider: Callable[[], Awaitable[Provider]], *, name: int | str) -> health.Outcome:
    limit = settings.VOICE_PROBE_TIMEOUT_S
    try:
        async with asyncio.timeout(limit):
            result = await (await provider()).probe()
        return health.Outcome(latency_ms=result.latency_ms)
    except ProviderError as error:
        return health.Outcome(error=str(error))
    except TimeoutError:
        return health.Outcome(error=f"No answer within {limit:g} s.")
    except Exception as error:
        # A provider's bug must not keep the other backends from being probed; its own backend is unhealthy.
        logger.exception("a probe failed", extra={"backend": name})
        return health.Outcome(error=f"The probe failed: {type(error).__name__}.")


async def _probe(backend_id: int, age_s: float, provider_for: Callable[[int], Awaitable[Provider]]) -> bool:
    limit = settings.VOICE_PROBE_TIMEOUT_S
    if not await in_thread(health.claim, backend_id=backend_id, age_s=age_s, claim_s=limit * 2):
        return False
    outcome = await _ask(functools.partial(provider_for, backend_id), name=backend_id)
    status = await in_thread(health.record, backend_id=backend_id, outcome=outcome)
    if outcome.error:
        logger.warning("backend %s is %s: %s", backend_id, status, outcome.error)
    return True
