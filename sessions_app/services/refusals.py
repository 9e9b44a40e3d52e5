"""Counts of attempts that were refused before they reached the ledger, which therefore have no record.

Owns: the one statement. Refuses: anything that the ledger decided; it counts its own floods in the same table.
"""

from collections.abc import Sequence
from typing import Final

from django.db import connection

_COUNT: Final = """
INSERT INTO sessions_app_attemptcount AS c (second, tenant_id, reason, count)
SELECT date_trunc('second', clock_timestamp() - make_interval(secs => v.ago)), v.tenant, v.reason, sum(v.count)
FROM unnest(%s::float8[], %s::bigint[], %s::text[], %s::int[]) AS v(ago, tenant, reason, count)
WHERE v.tenant = 0 OR EXISTS (SELECT FROM tenants_tenant t WHERE t.id = v.tenant)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (second, tenant_id, reason) DO UPDATE SET count = c.count + excluded.count"""


def count(rows: Sequence[tuple[float, int, str, int]]) -> None:
    """Add to the counts; rows are (seconds ago, tenant's id or 0 where nobody knows, reason, attempts).

    Raises:
        django.db.Error: the database is away; nothing was counted.
    """
    if rows:
        with connection.cursor() as cursor:
            cursor.execute(_COUNT, [list(column) for column in zip(*rows, strict=True)])
