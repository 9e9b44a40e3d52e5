"""The provider behind a backend, one object for each configuration that is in use in this process.

A backend's row is read at every opening, so that an edit acts on the next session; a session keeps the provider that it was opened with.
``aclose`` gives back what the providers hold when the process ends. One that an edit has replaced does so when its last session forgets it.
"""

import asyncio
import logging
from typing import Final

from django.conf import settings

from sessions_app.models import Backend
from sessions_app.models.fields import Undecipherable
from sessions_app.providers.base import BackendConfig, Provider, RoomProvider
from sessions_app.providers.exceptions import InvalidConfig, ProviderNotFound
from sessions_app.providers.registry import Registry
from sessions_app.providers.settings import Setting
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.together import Together

logger = logging.getLogger(__name__)

CLOSE_S: Final = 0.3
_cache: Final[dict[int, tuple[tuple[str, str, str], Provider]]] = {}


def create(backend: Backend) -> Provider:
    """Make a provider for this row, for whoever wants one of their own.

    Raises:
        ProviderNotFound: no such provider. InvalidConfig: its options or secrets are wrong.
    """
    if isinstance(backend.secrets, Undecipherable):
        raise InvalidConfig(Undecipherable.sentence)
    return Registry(settings.VOICE_PROVIDERS).create(backend.provider, BackendConfig(backend.name, backend.options, backend.secrets))


def settings_of(provider: str) -> tuple[Setting, ...]:
    """Return what a form asks for to set up a backend of this provider; nothing where it is not known, or wants JSON."""
    try:
        return Registry(settings.VOICE_PROVIDERS).get(provider).settings
    except ProviderNotFound:
        return ()


def makes_rooms(provider: str) -> bool:
    """Whether this provider's sessions live in rooms, of which webhooks tell."""
    try:
        return issubclass(Registry(settings.VOICE_PROVIDERS).get(provider), RoomProvider)
    except ProviderNotFound:
        return False


async def load(backend_id: int) -> Backend:
    """Return the backend as it is now; those who ask at once share one query. Not to be changed.

    Raises:
        ProviderNotFound: it was deleted meanwhile.
    """
    found = await _rows.ask(backend_id)
    if found is None:
        raise ProviderNotFound
    return found


async def _row(backend_id: int) -> Backend | None:
    return await in_thread(Backend.objects.filter(pk=backend_id).first)


_rows: Final = Together(_row)


async def provider_for(backend_id: int) -> Provider:
    """Return this process's provider for the backend as it is configured now.

    Raises:
        ProviderError: as ``create`` and ``load``.
    """
    return provider_of(await load(backend_id))


async def room_provider_for(backend_id: int) -> RoomProvider:
    """Return this process's provider of rooms for the backend as it is configured now.

    Raises:
        ProviderError: as ``create`` and ``load``; ``InvalidConfig`` where it makes no rooms.
    """
    return with_rooms(await provider_for(backend_id))


def with_rooms(provider: Provider) -> RoomProvider:
    """Return the provider as one of rooms.

    Raises:
        InvalidConfig: it makes none.
    """
    if not isinstance(provider, RoomProvider):
        raise InvalidConfig(f"provider {provider.name!r} makes no rooms.")
    return provider


async def room_backends() -> list[int]:
    """Return the enabled backends whose providers make rooms."""
    registry = Registry(settings.VOICE_PROVIDERS)
    names = [name for name in registry.names() if issubclass(registry.get(name), RoomProvider)]
    found = Backend.objects.filter(enabled=True, provider__in=names).order_by("pk").values_list("pk", flat=True)
    return await in_thread(list, found)


def provider_of(backend: Backend) -> Provider:
    """Return this process's provider for a row that was just read.

    Raises:
        ProviderError: as ``create``.
    """
    mark = (backend.provider, repr(backend.options), repr(backend.secrets) + type(backend.secrets).__name__)
    cached = _cache.get(backend.id)
    if cached is None or cached[0] != mark:
        cached = _cache[backend.id] = (mark, create(backend))
    return cached[1]


async def aclose() -> None:
    """Close this process's providers, within ``CLOSE_S``; one that is asked for afterwards is made anew."""
    closing = [provider for _, provider in _cache.values()]
    _cache.clear()
    try:
        async with asyncio.timeout(CLOSE_S):
            failures = await asyncio.gather(*(provider.aclose() for provider in closing), return_exceptions=True)
    except TimeoutError:
        logger.warning("providers did not close in time", extra={"seconds": CLOSE_S})
        return
    for failure in failures:
        if failure is not None:
            logger.error("a provider could not be closed", exc_info=failure)
