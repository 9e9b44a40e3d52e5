"""Slots of one backend that are kept free for the tenants that reserved them.

Owns: how many slots are kept, from whom. A tenant may use its own reservation; what it has not used of it nobody else may take.
The sum is kept as slots move, so that a decision costs the same with ten thousand reservations as with one. A reservation raises no
limit, and one on a backend without a cap, or on one that is not healthy, keeps nothing anywhere else.

Limit: while the reservations, or what others held before one was made, go beyond the cap, some room stays free for a while and nobody
may take it; who edits limits refuses sums above the cap.
"""

from collections.abc import Mapping, Sequence


class Reservations:
    """Who reserved how much of one backend, and how much of it each uses. Changed by the decision as it hands out slots.

    Args:
        rows: Tenant id to (reserved, sessions of that tenant on this backend); at least the tenants that ask, wait, or have a session
            that ends or moves in this batch.
        others: Unused slots that are reserved by tenants who are not in ``rows``, in sum.
    """

    __slots__ = ("_rows", "unused")

    def __init__(self, rows: Mapping[int, Sequence[int]] | None = None, *, others: int = 0) -> None:
        self._rows = {tenant_id: (reserved, used) for tenant_id, (reserved, used) in (rows or {}).items()}
        self.unused = others + sum(max(0, reserved - used) for reserved, used in self._rows.values())

    def unused_of(self, tenant_id: int) -> int:
        """Return how many slots are still kept for this tenant."""
        if not self.unused:
            return 0
        reserved, used = self._rows.get(tenant_id, (0, 0))
        return max(0, reserved - used)

    def kept_from(self, tenant_id: int) -> int:
        """Return how many slots are kept for others than this tenant."""
        return self.unused - self.unused_of(tenant_id) if self.unused else 0

    def holders(self) -> frozenset[int]:
        """Return the tenants of ``rows`` that have reserved something here."""
        return frozenset(tenant_id for tenant_id, (reserved, _) in self._rows.items() if reserved)

    def count(self, tenant_id: int, change: int) -> None:
        """Note that the tenant has ``change`` more sessions on this backend, or fewer."""
        row = self._rows.get(tenant_id)
        if row is None:
            return
        reserved, used = row
        self.unused += max(0, reserved - used - change) - max(0, reserved - used)
        self._rows[tenant_id] = (reserved, used + change)

    def copy(self) -> "Reservations":
        """Return one that moves by itself."""
        return Reservations(self._rows, others=self.unused - Reservations(self._rows).unused)
