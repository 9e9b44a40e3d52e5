"""The expected wait comes from how often lately there became free what the waiter needs; where that says nothing, it is unknown."""

from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason, State
from sessions_app.models import BackendAccess, BackendHealth, Platform
from sessions_app.selectors import places
from sessions_app.services.ledger import Ledger
from tenants.models import Tenant
from tests.verify.outside import from_outside
from tests.world import admit, admitted, make_backend, make_tenant

HOUR_S = 3600
WINDOW_S = places.RELEASES_OVER_S


class Scene:
    """A platform whose past can be written; the oldest first."""

    def __init__(self, ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
        self.ledger, self.sql = ledger, sql

    def start(self, tenant: Tenant, user: str = "live", **fields: Any) -> Any:
        answer = admitted(self.ledger.apply([admit(tenant, user, **fields)])[0])
        assert answer.state is State.STARTING
        return answer.session_id

    def released(self, tenant: Tenant, count: int = 3, *, ago_s: int = 0, user: str = "ann", **fields: Any) -> None:
        """So many sessions began and ended so long ago."""
        for _ in range(count):
            session_id = self.start(tenant, user, **fields)
            assert self.ledger.apply([End(session_id, Reason.COMPLETED)]) == [True]
            with from_outside(self.sql):
                for table, key, columns in (
                    ("session", "id", ("attempted_at", "started_at", "ended_at")),
                    ("sessionevent", "session_id", ("at",)),
                ):
                    changes = ", ".join(f"{column} = {column} - interval '{ago_s} s'" for column in columns)
                    self.sql.execute(f"UPDATE sessions_app_{table} SET {changes} WHERE {key} = %s".encode(), (session_id,))

    def waits(self, tenant: Tenant, user: str = "patient", **fields: Any) -> float | None:
        """Return what somebody who comes now is told."""
        operation = admit(tenant, user, **fields)
        assert admitted(self.ledger.apply([operation])[0]).state is State.QUEUED
        session_id = operation.attempt.session_id
        estimate_s = places.of(session_ids=[session_id])[session_id].estimated_wait_s
        assert self.ledger.apply([End(session_id, Reason.COMPLETED)]) == [True]
        return estimate_s


@pytest.fixture
def scene(ledger: Ledger, sql: psycopg.Connection[Any]) -> Scene:
    return Scene(ledger, sql)


def waiting(slug: str, **quota: Any) -> Tenant:
    return make_tenant(slug, **{"max_concurrent_sessions": None, "max_queue_length": 10, **quota})


def test_where_nothing_became_free_it_is_unknown(scene: Scene) -> None:
    make_backend(cap=1)
    acme = waiting("acme")
    scene.released(acme, 9, ago_s=HOUR_S)
    scene.start(acme)
    assert scene.waits(acme) is None


def test_a_quiet_spell_counts_however_many_hang_up_at_its_end(scene: Scene) -> None:
    make_backend(cap=1)
    acme = waiting("acme")
    scene.released(acme, 1, ago_s=HOUR_S)
    scene.released(acme, 3)
    scene.start(acme)
    assert scene.waits(acme) == WINDOW_S / 3


def test_before_the_first_session_there_was_no_quiet_spell(scene: Scene) -> None:
    make_backend(cap=1)
    acme = waiting("acme")
    scene.released(acme, 3, ago_s=60)
    scene.start(acme)
    estimate_s = scene.waits(acme)
    assert estimate_s is not None
    assert 20 <= estimate_s < WINDOW_S / 3


def test_what_nobody_has_looked_at_is_no_quiet_spell(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    make_backend(cap=1)
    acme = waiting("acme")
    scene.released(acme, 4, ago_s=HOUR_S)
    scene.released(acme, 8, ago_s=60)
    scene.start(acme)
    monkeypatch.setattr(places, "MOST_EVENTS", 10)  # two of them are of who talks and who waits
    estimate_s = scene.waits(acme)
    assert estimate_s is not None
    assert 15 <= estimate_s < WINDOW_S / 4


def test_at_its_own_limit_a_tenant_waits_for_its_own_sessions(scene: Scene) -> None:
    make_backend()
    acme, globex = waiting("acme", max_concurrent_sessions=1), waiting("globex")
    scene.released(acme, 1, ago_s=HOUR_S)
    scene.released(globex, 9)
    ending = scene.start(acme)
    assert scene.waits(acme) is None
    scene.ledger.apply([End(ending, Reason.COMPLETED)])
    scene.released(acme, 2)
    scene.start(acme)
    assert scene.waits(acme) == WINDOW_S / 3


def test_at_its_own_limit_a_user_waits_for_its_own_sessions(scene: Scene) -> None:
    make_backend()
    acme = waiting("acme", max_sessions_per_user=1)
    scene.released(acme, 1, ago_s=HOUR_S, user="ann")
    scene.released(acme, 9, user="bob")
    scene.start(acme, "ann")
    assert scene.waits(acme, "ann") is None
    scene.start(acme, "bob")
    estimate_s = scene.waits(acme, "bob")
    assert estimate_s is not None
    assert estimate_s < WINDOW_S / 9  # it has been here for less


@pytest.mark.parametrize(
    ("wish", "two"),
    [
        ({"backend": "one"}, {}),
        ({"pipeline": "s2s"}, {"pipelines": {"stt_tts": {}}}),
        ({"transport": "websocket"}, {"transports": ["webrtc"]}),
    ],
)
def test_at_a_full_backend_it_waits_for_that_whoever_is_on_it(scene: Scene, wish: dict[str, str], two: dict[str, Any]) -> None:
    make_backend("one", cap=1)
    make_backend("two", cap=1, **two)
    acme, globex = waiting("acme"), waiting("globex")
    of_two = {"pipeline": next(iter(two.get("pipelines", {"": None}))), "transport": two.get("transports", ["websocket"])[0]}
    scene.released(globex, 1, ago_s=HOUR_S, backend="one")
    scene.released(acme, 9, backend="two", **of_two)
    scene.start(acme, backend="two", **of_two)
    ending = scene.start(globex, backend="one")
    assert scene.waits(acme, **wish) is None
    scene.ledger.apply([End(ending, Reason.COMPLETED)])
    scene.released(globex, 2, backend="one")
    scene.start(globex, backend="one")
    assert scene.waits(acme, **wish) == WINDOW_S / 3


def test_on_whichever_backend_it_may_go_to(scene: Scene) -> None:
    for name in ("one", "two"):
        make_backend(name, cap=1)
    acme = waiting("acme")
    scene.released(acme, 1, ago_s=HOUR_S, backend="one")
    scene.released(acme, 2, backend="one")
    scene.released(acme, 2, backend="two")
    scene.start(acme)
    scene.start(acme)
    assert scene.waits(acme) == WINDOW_S / 4
    assert scene.waits(acme, backend="one") is None


def test_what_becomes_free_on_a_backend_that_is_ill_helps_nobody(scene: Scene) -> None:
    one, _ = make_backend("one", cap=1), make_backend("two", cap=1)
    acme = waiting("acme")
    scene.released(acme, 9, backend="one")
    scene.start(acme, backend="two")
    BackendHealth.objects.filter(backend=one).update(status="unhealthy")
    assert scene.waits(acme) is None


def test_at_the_platforms_limit_it_waits_for_any_session(scene: Scene) -> None:
    one, _ = make_backend("one"), make_backend("two")
    acme, globex = waiting("acme"), waiting("globex")
    BackendAccess.objects.create(tenant=acme, backend=one)
    scene.released(acme, 1, ago_s=HOUR_S)
    scene.released(globex, 3, backend="two")
    scene.start(globex, backend="two")
    Platform.objects.update(max_concurrent_sessions=1)
    assert scene.waits(acme) == WINDOW_S / 3
