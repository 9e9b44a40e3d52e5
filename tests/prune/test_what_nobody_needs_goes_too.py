import uuid
from datetime import timedelta

import pytest
from django.utils import timezone

from sessions_app.models import AttemptCount, Drift, Node, RateBucket, Room, WebhookEvent, WebhookRefusal
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


def test_what_providers_told_goes_with_its_time_or_its_session(past: Past) -> None:
    gone = past.start()
    past.end(gone)
    past.pass_days(91)
    kept = past.start()
    for session_id in (gone, kept):
        room = Room.objects.create(session_id=session_id, backend=past.backend, name=f"voice-{session_id}", made_at=timezone.now())
        WebhookEvent.objects.create(
            backend=past.backend, event_id=str(session_id), name="room_started", session_id=session_id, received_at=timezone.now()
        )
        assert room.generation == 1
    for days in (89, 91):
        then = timezone.now() - timedelta(days=days)
        WebhookEvent.objects.create(backend=past.backend, event_id=str(days), name="room_started", received_at=then)
        WebhookRefusal.objects.create(backend=past.backend, minute=then, reason="wrong_signature", count=1)
        Drift.objects.create(backend=past.backend, kind=Drift.Kind.ORPHAN_ROOM, room=str(days), at=then)
    pruned = pruning.prune(holder="a")
    assert (pruned.sessions, pruned.webhooks) == (1, 3)
    assert set(WebhookEvent.objects.values_list("event_id", flat=True)) == {"89", str(kept)}
    assert [each.session_id for each in Room.objects.all()] == [kept]
    assert [each.room for each in Drift.objects.all()] == ["89"]
    assert WebhookRefusal.objects.count() == 1
