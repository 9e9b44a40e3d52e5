"""One operation of the ledger for a process that has no batcher: on a connection of its own, for now and then.

Refuses: many at once, which are a batch.
"""

import psycopg

from sessions_app.domain.operations import Operation, Result
from sessions_app.services.connections import open_connection
from sessions_app.services.exceptions import Unavailable
from sessions_app.services.ledger import Ledger


def apply(operation: Operation) -> Result:
    """Apply one operation and return its result.

    Raises:
        Unavailable: the database is away, or did not take it.
    """
    try:
        with open_connection(name="voiceplatform task") as own:
            return Ledger(own).apply([operation])[0]
    except psycopg.Error as error:
        raise Unavailable(in_doubt=True) from error
