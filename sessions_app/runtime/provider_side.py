"""The provider's side of one session: opened within its time, closed within its time, whatever the provider does.

Owns: the time limits, and the translation of what goes wrong into one ``ProviderError``. Refuses: choosing the backend, and the ledger.
Limits: a provider that does not close in time may hold the session a little longer than the platform counts it.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from django.conf import settings

from sessions_app.domain.operations import Admitted
from sessions_app.domain.world import Attempt
from sessions_app.providers.base import OpenRequest, Provider, ProviderSession
from sessions_app.providers.exceptions import OpenTimeout, ProviderError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a backend is opened with: its provider, the tenant's slug, the models of the pipeline."""

    provider: Provider
    tenant: str
    model: Mapping[str, object]


class Opens(Protocol):
    """Finds what a backend is opened with."""

    async def __call__(self, admitted: Admitted, tenant_id: int) -> Opening:
        """Return it for the backend that the session was admitted to.

        Raises:
            ProviderError: There is no such provider, or its configuration is wrong.
        """


class ProviderSide:
    """Opens and closes the provider for one session; open on one backend at a time.

    Attributes:
        provider: The one that is open, or was tried; None before and after.
        session: Open; None where it is not.
    """

    __slots__ = ("_attempt", "_find", "_metadata", "provider", "session")

    def __init__(self, *, find: Opens, attempt: Attempt, metadata: Mapping[str, object]) -> None:
        self._find = find
        self._attempt = attempt
        self._metadata = metadata
        self.provider: Provider | None = None
        self.session: ProviderSession | None = None

    async def open(self, admitted: Admitted) -> None:
        """Open the backend that the session was admitted to, within ``VOICE_OPEN_TIMEOUT_S``; after a failure ``close`` is still due.

        Raises:
            ProviderError: Whatever went wrong; ``OpenTimeout`` where it took too long.
        """
        try:
            async with asyncio.timeout(settings.VOICE_OPEN_TIMEOUT_S):
                await self._open(admitted)
        except TimeoutError:
            raise OpenTimeout(f"it did not open within {settings.VOICE_OPEN_TIMEOUT_S:g} s.") from None
        except ProviderError:
            raise
        except Exception as error:
            logger.exception("provider raised an unexpected error", extra={"session": str(self._id)})
            raise ProviderError(f"unexpected {type(error).__name__}.") from error

    async def close(self) -> None:
        """Close what is open or half open, within ``VOICE_CLOSE_TIMEOUT_S``; a failure is logged, the slot does not wait for it."""
        provider, self.provider = self.provider, None
        session, self.session = self.session, None
        if provider is None:
            return
        fields = {"session": str(self._id), "provider": provider.name}
        try:
            async with asyncio.timeout(settings.VOICE_CLOSE_TIMEOUT_S):
                await provider.close(session or ProviderSession.known(self._id))
        except TimeoutError:
            logger.warning("backend did not close in time", extra=fields)
        except ProviderError as error:
            logger.warning("backend could not be closed", extra={**fields, "error": str(error)})
        except Exception:
            logger.exception("provider raised an unexpected error", extra=fields)

    async def _open(self, admitted: Admitted) -> None:
        opening = await self._find(admitted, self._attempt.tenant_id)
        self.provider = opening.provider
        self.session = await opening.provider.open(self._request(opening, admitted))

    def _request(self, opening: Opening, admitted: Admitted) -> OpenRequest:
        return OpenRequest(
            session_id=self._id,
            tenant=opening.tenant,
            user=self._attempt.user,
            pipeline=admitted.pipeline,
            transport=self._attempt.transport,
            model=opening.model,
            metadata=self._metadata,
            max_duration_s=admitted.policy.max_duration_s,
        )

    @property
    def _id(self) -> UUID:
        return self._attempt.session_id
