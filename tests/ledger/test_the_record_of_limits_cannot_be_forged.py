from typing import Any

import psycopg
import pytest

from sessions_app.models import LimitChange
from tests.world import make_backend, make_tenant


def test_a_change_of_a_limit_is_recorded_and_nobody_else_may_add_one(sql: psycopg.Connection[Any]) -> None:
    tenant = make_tenant()
    sql.execute("UPDATE tenants_quota SET max_concurrent_sessions = 3")
    newest = LimitChange.objects.filter(scope="tenant", ref=tenant.pk).latest("seq")
    assert newest.old is not None
    assert newest.new is not None
    assert (newest.old["max_concurrent_sessions"], newest.new["max_concurrent_sessions"]) == (10, 3)
    with pytest.raises(psycopg.Error, match="only in the ledger"):
        sql.execute("INSERT INTO sessions_app_limitchange (seq, scope, ref, at, db_user) VALUES (1, 'tenant', 1, now(), 'me')")


def test_a_backend_without_secrets_is_recorded_without_a_word_of_them(committed_db: None) -> None:
    backend = make_backend()
    recorded = LimitChange.objects.get(scope="backend", ref=backend.pk).new
    assert recorded is not None
    assert "secrets" not in recorded
