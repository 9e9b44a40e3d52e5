from typing import Any

import psycopg
import pytest

from sessions_app.services.ledger import Ledger
from tests.prune.past import Past


@pytest.fixture
def past(ledger: Ledger, sql: psycopg.Connection[Any]) -> Past:
    return Past(ledger, sql)
