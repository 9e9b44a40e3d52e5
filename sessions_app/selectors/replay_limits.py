"""The limits of a replay: what was in force at each moment, with overrides, and where reserved slots were kept.

Counts a tenant's sessions on each backend, as it is told. Pure, in constant memory for each scope, each override in force or to come, and
each pair of tenant and backend with a live session. The sums of what is kept move with the sessions, so that a start costs the same with
ten thousand reservations as with one.
"""

from collections import Counter
from heapq import heappop, heappush
from typing import Final, NamedTuple

Scope = tuple[str, int, str]  # its name, the id of the tenant or backend (0: the platform), the user where it is one's
PLATFORM: Final[Scope] = ("platform", 0, "")
KEPT_US: Final = 24 * 3600 * 1_000_000  # that an override is kept for when it is over: the clock may have been set back


class Limit(NamedTuple):
    """Limits of a scope from this number on. None is unlimited.

    A tenant's: ``user_limit``, ``burst``, ``reserved`` and ``reserved_backend``. A backend's: ``burst_below``, None where the record does
    not tell, ``name`` and ``enabled``; one that is gone has no name.
    """

    seq: int
    scope: str
    ref: int
    limit: int | None
    user_limit: int | None = None
    burst: int = 0
    reserved: int = 0
    reserved_backend: str = ""
    burst_below: float | None = None
    name: str = ""
    enabled: bool = False


class Override(NamedTuple):
    """What is added to one limit of a tenant from one time to another, in microseconds since 1970; as it is from this number on."""

    seq: int
    id: str
    tenant_id: int
    field: str
    change: int
    starts_us: int
    ends_us: int


class Access(NamedTuple):
    """A tenant may use a backend from this number on; None: that is over."""

    seq: int
    id: str
    tenant_id: int
    backend_id: int | None


class InForce:
    """The limits in force, by what was told last."""

    def __init__(self) -> None:
        self._limits: dict[tuple[str, int], Limit] = {}
        self._overrides: dict[int, dict[str, Override]] = {}  # of each tenant
        self._ends: list[tuple[int, int, str]] = []  # of overrides, the first that is over in front

    def put(self, limit: Limit) -> None:
        """Put a limit in force."""
        self._limits[limit.scope, limit.ref if limit.scope != "platform" else 0] = limit

    def override(self, override: Override, *, now_us: int) -> None:
        """Change a tenant's limit for a time; one that changes it by nothing takes the one before it away. Those that are over go."""
        self._forget(override.tenant_id, override.id)
        if override.change:
            self._overrides.setdefault(override.tenant_id, {})[override.id] = override
            heappush(self._ends, (override.ends_us, override.tenant_id, override.id))
        while self._ends and self._ends[0][0] + KEPT_US < now_us:
            ends_us, tenant_id, id_ = heappop(self._ends)
            one = self._overrides.get(tenant_id, {}).get(id_)
            if one is not None and one.ends_us == ends_us:
                self._forget(tenant_id, id_)

    def _forget(self, tenant_id: int, id_: str) -> None:
        of_tenant = self._overrides.get(tenant_id, {})
        of_tenant.pop(id_, None)
        if not of_tenant:
            self._overrides.pop(tenant_id, None)

    def of(self, scope: Scope, at_us: int) -> int | None:
        """Return the most that a scope may have, a tenant with its burst.

        Raises:
            KeyError: no limit of it is on record.
        """
        name, ref, _ = scope
        limit = self._limits[("tenant" if name == "user" else name), ref]
        if name == "user":
            return self._overridden(ref, "max_sessions_per_user", limit.user_limit, at_us)
        if name != "tenant":
            return limit.limit
        own, burst = self.of_tenant(ref, at_us)
        return own + burst if own is not None else None

    def of_tenant(self, tenant_id: int, at_us: int) -> tuple[int | None, int]:
        """Return a tenant's limit, and its burst beside it; a time is that of the transaction, by which the ledger decided.

        Raises:
            KeyError: no limit of it is on record.
        """
        limit = self._limits["tenant", tenant_id]
        own = self._overridden(tenant_id, "max_concurrent_sessions", limit.limit, at_us)
        return own, self._overridden(tenant_id, "burst", limit.burst, at_us) or 0

    def of_backend(self, backend_id: int) -> Limit | None:
        """Return a backend's limits; None where none is on record."""
        return self._limits.get(("backend", backend_id))

    def _overridden(self, tenant_id: int, field: str, value: int | None, at_us: int) -> int | None:
        if value is None or tenant_id not in self._overrides:
            return value
        changes = (each for each in self._overrides[tenant_id].values() if each.field == field)
        return max(0, value + sum(each.change for each in changes if each.starts_us <= at_us < each.ends_us))


class Kept:
    """Where each tenant's reserved slots stand, as ``voice_reserved_on`` says, and how many of them are not in use there."""

    def __init__(self) -> None:
        self._used: dict[tuple[int, int], int] = {}  # by tenant and backend
        self._reserved: dict[int, tuple[int, str]] = {}  # of each tenant that has reserved any: how many, on the backend of which name
        self._places: dict[int, int | None] = {}  # of each of these
        self._unused: dict[int, int] = {}  # on each backend
        self._holders = Counter[int]()  # tenants that have reserved any, on each backend
        self._access: dict[int, dict[str, int]] = {}
        self._names: dict[int, str] = {}
        self._enabled: set[int] = set()

    # --- what is told ------------------------------------------------------------------------------------------------------
    def put(self, limit: Limit) -> None:
        """Take over what a tenant reserves, or what a backend is called and whether it is there by default."""
        if limit.scope == "tenant":
            self._lift(limit.ref)
            self._reserved.pop(limit.ref, None)
            if limit.reserved:
                self._reserved[limit.ref] = limit.reserved, limit.reserved_backend
                self._place(limit.ref)
        elif limit.scope == "backend":
            before = self._names.get(limit.ref), self._first()
            self._names.pop(limit.ref, None)
            self._enabled.discard(limit.ref)
            if limit.name:
                self._names[limit.ref] = limit.name
                if limit.enabled:
                    self._enabled.add(limit.ref)
            if before != (self._names.get(limit.ref), self._first()):
                for tenant_id in self._reserved:
                    self._lift(tenant_id)
                    self._place(tenant_id)

    def access(self, access: Access) -> None:
        """Let a tenant use a backend, or no more."""
        self._lift(access.tenant_id)
        own = self._access.setdefault(access.tenant_id, {})
        own.pop(access.id, None)
        if access.backend_id is not None:
            own[access.id] = access.backend_id
        if not own:
            del self._access[access.tenant_id]
        if access.tenant_id in self._reserved:
            self._place(access.tenant_id)

    def count(self, tenant_id: int, backend_id: int, change: int) -> None:
        """Note that the tenant has one session more on a backend, or one less."""
        key = tenant_id, backend_id
        before = self._used.get(key, 0)
        self._used[key] = before + change
        if not self._used[key]:
            del self._used[key]
        reserved = self.reserved(tenant_id, backend_id)
        if reserved:
            self._unused[backend_id] += max(0, reserved - before - change) - max(0, reserved - before)

    # --- what is asked -----------------------------------------------------------------------------------------------------
    def used(self, tenant_id: int, backend_id: int) -> int:
        """Return how many sessions a tenant has on a backend."""
        return self._used.get((tenant_id, backend_id), 0)

    def reserved(self, tenant_id: int, backend_id: int) -> int:
        """Return how many slots of a backend are a tenant's."""
        return self._reserved[tenant_id][0] if self._places.get(tenant_id) == backend_id else 0

    def is_reserved(self, backend_id: int) -> bool:
        """Say whether any slot of a backend is reserved."""
        return backend_id in self._holders

    def unused(self, backend_id: int) -> int:
        """Return how many reserved slots of a backend are not in use."""
        return self._unused.get(backend_id, 0)

    def _first(self) -> int | None:
        return min(self._enabled, default=None)

    def _lift(self, tenant_id: int) -> None:
        place = self._places.pop(tenant_id, None)
        if place is not None:
            self._holders -= Counter([place])
            self._unused[place] -= max(0, self._reserved[tenant_id][0] - self.used(tenant_id, place))

    def _place(self, tenant_id: int) -> None:
        reserved, name = self._reserved[tenant_id]
        if name:
            place = next((each for each, called in self._names.items() if called == name), None)
        else:
            place = min(self._access.get(tenant_id, {}).values(), default=self._first())
        if place is not None:
            self._places[tenant_id] = place
            self._holders[place] += 1
            self._unused[place] = self._unused.get(place, 0) + max(0, reserved - self.used(tenant_id, place))
