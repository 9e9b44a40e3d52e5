from typing import Any

import psycopg
import pytest

from sessions_app.models import OpeningBalance, Session
from sessions_app.services import prune as pruning
from tests.prune.past import Past, a_history
from tests.verify.outside import assert_clean, from_outside, verify_history

BROKEN = {
    "a balance changed": (
        "UPDATE sessions_app_openingbalance SET active = 5 WHERE scope = 'tenant' AND ref = {tenant}",
        "the opening balance of tenant {tenant} says 5 in use at sequence number {seq}, the history says 2",
    ),
    "a user's balance taken away": (
        "DELETE FROM sessions_app_openingbalance WHERE scope = 'user' AND \"user\" = 'bob'",
        "the opening balance of user 'bob' of tenant {tenant} says 0 in use at sequence number {seq}, the history says 1",
    ),
    "the platform's balance taken away": (
        "DELETE FROM sessions_app_openingbalance WHERE scope = 'platform'",
        "the opening balance of the platform is missing",
    ),
    "a balance moved": (
        "UPDATE sessions_app_openingbalance SET seq = seq + 1 WHERE scope = 'backend'",
        "the opening balance of backend {backend} is of sequence number",
    ),
    "all balances taken away": ("DELETE FROM sessions_app_openingbalance", "the records of the quota of tenant {tenant} before record"),
    "a session that was live at the horizon taken away whole": (
        "DELETE FROM sessions_app_sessionevent WHERE session_id = '{late}'; DELETE FROM sessions_app_session WHERE id = '{late}'",
        "the opening balance of user 'cy' of tenant {tenant} says 1 in use at sequence number {seq}, the history says 0",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_was_done_to_the_balance_from_outside_is_named(past: Past, sql: psycopg.Connection[Any], what: str) -> None:
    a_history(past)
    pruning.prune(holder="a")
    assert_clean()
    known = {
        "tenant": past.tenant.pk,
        "backend": past.backend.pk,
        "seq": OpeningBalance.objects.get(scope="platform").seq,
        "late": Session.objects.get(user="cy").pk,
    }
    statement, wanted = BROKEN[what]
    with from_outside(sql):
        for each in statement.format(**known).split(";"):
            assert sql.execute(each.encode()).rowcount > 0
    code, said = verify_history()
    assert code == 1
    assert any(wanted.format(**known) in line for line in said), said
