from sessions_app.models import Backend, LimitChange
from sessions_app.services import prune as pruning
from tests.prune.past import Past
from tests.verify.outside import assert_clean
from tests.world import make_backend


def test_a_backend_that_went_before_the_horizon_leaves_no_record(past: Past) -> None:
    backend = make_backend("short-lived")
    ref = backend.pk
    backend.delete()
    past.end(past.start())
    past.pass_days(91)
    pruning.prune(holder="a")
    assert not LimitChange.objects.filter(scope="backend", ref=ref).exists()
    assert Backend.objects.count() == 1
    assert_clean()


def test_of_each_override_the_last_record_stays(past: Past) -> None:
    for change in (1, 2):
        past.sql.execute(
            "INSERT INTO tenants_override (tenant_id, field, change, starts_at, ends_at, note, created_by, created_at)"
            " VALUES (%s, 'burst', %s, now(), now() + interval '1 day', 'campaign', '', now())",
            (past.tenant.pk, change),
        )
        past.sql.execute("UPDATE tenants_override SET change = change + 10 WHERE change < 10")
    past.end(past.start())
    past.pass_days(91)
    assert pruning.prune(holder="a").sessions == 1
    kept = LimitChange.objects.filter(new__has_key="ends_at").order_by("seq")
    assert [each.new and each.new["change"] for each in kept] == [11, 12]
    assert_clean()
