"""The provider's side of a session that lives in a room: written down before it is made, entered again where it is there already.

Owns: that no room is made which the database does not know of, so that whoever dies meanwhile leaves nothing behind. Refuses: the room's
life, which is its keeper's.
"""

from collections.abc import Sequence
from typing import Final

from sessions_app.domain.operations import Admitted
from sessions_app.providers.base import ProviderSession
from sessions_app.providers.exceptions import ProviderFailed
from sessions_app.runtime import backends
from sessions_app.runtime.database import in_thread
from sessions_app.runtime.gathering import Gathering
from sessions_app.runtime.provider_side import ProviderSide
from sessions_app.selectors.rooms import RoomNow
from sessions_app.services import rooms
from sessions_app.services.rooms import Wanted

FIRST_LOOK_S: Final = 30.0  # whatever happens to this process, somebody looks after the room by then


async def _prepare(wanted: Sequence[Wanted]) -> list[bool]:
    return await in_thread(rooms.prepare, wanted)


# Many sessions that begin at once are written down together.
_prepared: Final[Gathering[Wanted, bool]] = Gathering(_prepare, most=200)


class RoomSide(ProviderSide):
    """As ``ProviderSide``, for backends that make rooms.

    Attributes:
        generation: How often the room was made, as far as the client was told.
    """

    __slots__ = ("generation",)

    generation: int

    async def _open(self, admitted: Admitted) -> None:
        if admitted.attached and await self._enter():
            return
        self.generation = 1
        opening = await self._find(admitted, self._attempt.tenant_id)
        provider = self.provider = backends.with_rooms(opening.provider)
        if admitted.backend is None:
            raise RuntimeError("a session that is opened has a backend")
        policy = provider.policy
        first_s = min(FIRST_LOOK_S, policy.join_timeout_s, policy.agent_timeout_s or policy.join_timeout_s)
        name = provider.room_name(self._id)
        written = await _prepared.ask(Wanted(self._id, admitted.backend.id, name, policy.join_timeout_s, policy.agent_timeout_s, first_s))
        if not written:
            raise ProviderFailed("the session ended while its room was being made.")
        self.session = await provider.open(self._request(opening, admitted))

    async def _enter(self) -> bool:
        """Enter the room that the session has already; False where it has none."""
        found = await in_thread(rooms.look, session_id=self._id)
        if found is None or found.closed:
            return False
        self.generation = found.generation
        await self._use(found.backend_id, found.name)
        return True

    async def follow(self, now: RoomNow) -> None:
        """Follow the session to where its room is now.

        Raises:
            ProviderError: The backend cannot be used.
        """
        await self._use(now.backend_id, self.session.resource if self.session is not None else "")
        self.generation = now.generation

    async def _use(self, backend_id: int, name: str) -> None:
        provider = self.provider = await backends.room_provider_for(backend_id)
        self.session = ProviderSession(self._id, None, name, client=provider.rejoin(self._id))
