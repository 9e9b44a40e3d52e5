import uuid

import pytest

from sessions_app.models import AttemptCount, Node, RateBucket
from sessions_app.services import prune as pruning
from sessions_app.services.prune import Pruned
from tests.prune.past import Past, release_claim
from tests.world import NODE


def test_nodes_go_when_no_history_tells_of_them(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    def node(name: str, state: str, days: float) -> None:
        past.sql.execute(
            "INSERT INTO sessions_app_node (id, name, pid, state, started_at, heartbeat_at)"
            " SELECT %s, %s, 1, %s, t, t FROM (SELECT clock_timestamp() - make_interval(secs => %s * 86400)) AS c(t)",
            (NODE if name == "carries" else uuid.uuid4(), name, state, days),
        )

    past.start()
    for name, state, days in (
        ("up", "up", 200.0), ("carries", "lost", 200.0), ("old", "stopped", 92.0), ("told of", "lost", 80.0), ("today", "stopped", 0.5),
    ):  # fmt: skip
        node(name, state, days)
    assert pruning.prune(holder="a").nodes == 1
    assert set(Node.objects.values_list("name", flat=True)) == {"up", "carries", "told of", "today"}
    # However few days they are gone, their number is bounded.
    monkeypatch.setattr(pruning, "NODES_KEPT", 1)
    release_claim(past.sql)
    assert pruning.prune(holder="a").nodes == 1
    assert set(Node.objects.values_list("name", flat=True)) == {"up", "carries", "today"}


def test_counts_of_refused_attempts_go_with_the_history_and_rates_when_nobody_uses_them(past: Past) -> None:
    past.sql.execute(
        "INSERT INTO sessions_app_attemptcount (second, tenant_id, reason, count)"
        " SELECT now() - make_interval(days => d), 0, 'x', 1 FROM unnest(ARRAY[89, 91]) AS d"
    )
    past.sql.execute(
        'INSERT INTO sessions_app_ratebucket (tenant_id, "user", tokens, at)'
        " SELECT 1, d, 1, now() - make_interval(days => d) FROM unnest(ARRAY[0, 2]) AS d"
    )
    assert pruning.prune(holder="a") == Pruned(counts=1, rates=1)
    assert [each.user for each in RateBucket.objects.all()] == ["0"]
    assert AttemptCount.objects.count() == 1
