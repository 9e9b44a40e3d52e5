from typing import Any

import psycopg

from sessions_app.models import BackendAccess, Session
from sessions_app.services import prune as pruning
from tests.prune.past import Past
from tests.verify.outside import assert_clean, from_outside, verify_history
from tests.world import admit, admitted, make_backend


def test_a_pruned_history_is_checked_from_its_horizon_on(past: Past, sql: psycopg.Connection[Any]) -> None:
    make_backend("other", cap=None)
    sql.execute("UPDATE sessions_app_backend SET cap = 6, burst_below = 0.9 WHERE name = 'loopback'")
    sql.execute("UPDATE tenants_quota SET reserved = 2 WHERE tenant_id = %s", (past.other.pk,))
    sql.execute("UPDATE tenants_quota SET burst = 2, max_concurrent_sessions = 3 WHERE tenant_id = %s", (past.tenant.pk,))
    BackendAccess.objects.create(tenant=past.tenant, backend=past.backend)
    brief = BackendAccess.objects.create(tenant=past.other, backend=past.backend)
    gone, *_ = [past.start(user) for user in ("ann", "bob", "cy")]
    past.end(past.start("dee"))
    past.end(gone)
    brief.delete()
    past.pass_days(91)
    pruning.prune(holder="a")
    assert_clean()
    late = [past.start("eve"), past.start("flo")]
    assert [each.burst for each in Session.objects.filter(pk__in=late).order_by("id")] == [False, True]
    answer = admitted(past.ledger.apply([admit(past.tenant, "gil")])[0])
    assert not answer.verdict.admitted
    assert_clean()
    with from_outside(sql):
        sql.execute("UPDATE sessions_app_session SET burst = false WHERE id = %s", (late[1],))
    code, said = verify_history()
    assert code == 1
    assert any(f"session {late[1]} of tenant {past.tenant.pk} started with at least 3 in use and a limit of 3" in line for line in said), (
        said
    )
