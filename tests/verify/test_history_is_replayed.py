import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Event as Flag
from typing import Any

import psycopg
import pytest

from sessions_app.domain.operations import Activate, Admit, End, Move, Resume, Suspend
from sessions_app.domain.states import Reason
from sessions_app.models import Backend, LimitChange, Session, SessionEvent
from sessions_app.selectors import verification
from sessions_app.services.ledger import Ledger
from tenants.models import Tenant
from tests.verify.outside import assert_clean, from_outside, verify_history
from tests.world import NODE, admit, admitted, make_backend, make_tenant, new_ledger


@dataclass
class World:
    tenant: Tenant
    globex: Tenant
    backend: Backend
    ids: dict[str, str]


@pytest.fixture
def world(ledger: Ledger, sql: psycopg.Connection[Any]) -> World:
    """A history with every kind of event: sessions that live, wait, are over, were moved, resumed, promoted and refused."""
    backend, other = make_backend(), make_backend("other", weight=0)
    tenant = make_tenant(max_concurrent_sessions=4, max_sessions_per_user=3)
    sql.execute("UPDATE sessions_app_platform SET max_concurrent_sessions = 50")
    first = admitted(ledger.apply([admit(tenant)])[0])
    second, third = (admitted(each) for each in ledger.apply([admit(tenant, "bob"), admit(tenant)]))
    moved: Admit = admit(tenant, "cy")
    assert admitted(ledger.apply([moved])[0]).backend is not None
    refused = admitted(ledger.apply([admit(tenant)])[0])
    assert refused.verdict.reason is Reason.SESSION_LIMIT
    move = Move(replace(moved.attempt, exclude=frozenset({backend.pk})), NODE)
    assert admitted(ledger.apply([move])[0]).backend is not None
    ledger.apply([Activate(first.session_id, NODE), Activate(second.session_id, NODE)])
    ledger.apply([Resume(first.session_id, NODE, tenant.pk, "ann")])
    ledger.apply([Resume(first.session_id, NODE, tenant.pk, "ann", shown=99)])
    ledger.apply([Suspend(second.session_id, NODE)])
    sql.execute("UPDATE tenants_quota SET max_concurrent_sessions = 2")
    ledger.apply([End(third.session_id, Reason.COMPLETED), End(moved.attempt.session_id, Reason.COMPLETED)])
    sql.execute("UPDATE tenants_quota SET max_concurrent_sessions = 4")
    # One that is over within the transaction that let it in.
    brief = admit(tenant, "dee")
    ledger.apply([brief, admit(tenant, "eve"), End(brief.attempt.session_id, Reason.COMPLETED)])
    # Of two tenants at once, with an edit of both limits between.
    globex = make_tenant("globex", max_concurrent_sessions=2, max_queue_length=5)
    leaving = admit(globex)
    ledger.apply([leaving, admit(tenant, "flo")])
    # Two more than the quota says, for a day.
    sql.execute(
        "INSERT INTO tenants_override (tenant_id, field, change, starts_at, ends_at, note, created_by, created_at)"
        " VALUES (%s, 'max_concurrent_sessions', 2, now(), now() + interval '1 day', 'campaign', '', now())",
        (tenant.pk,),
    )
    for user in ("gil", "hal"):
        assert admitted(ledger.apply([admit(tenant, user)])[0]).verdict.admitted
    # One that waits, and one that waited.
    ledger.apply([admit(globex, user) for user in ("x", "y", "z")])
    ledger.apply([End(leaving.attempt.session_id, Reason.COMPLETED)])
    assert SessionEvent.objects.filter(old="queued", new="starting").count() == Session.objects.filter(state="queued").count() == 1
    backend.cap = 5
    backend.save()
    assert other.pk
    ids = {"first": first.session_id, "second": second.session_id, "third": third.session_id, "refused": refused.session_id}
    return World(tenant, globex, backend, {name: str(value) for name, value in ids.items()})


def test_a_history_with_every_kind_of_event_is_clean(world: World) -> None:
    code, said = verify_history()
    assert code == 0, said
    events = SessionEvent.objects.count()
    assert said[0].startswith(f"Replayed {events} events of 14 attempts, 12 of which were admitted, and ")
    assert said[-1].startswith("Capacity is clean: ")
    assert "History is clean" in said[-1]


def test_an_empty_history_is_clean(committed_db: None) -> None:
    assert_clean()


EVENT = "INSERT INTO sessions_app_sessionevent (session_id, seq, old, new, reason, at, actor, detail, tenant_id, backend_id)"
BROKEN: dict[str, tuple[str, str]] = {
    "an event in mid-life taken away": (
        "DELETE FROM sessions_app_sessionevent WHERE session_id = '{second}' AND old = 'starting'",
        "goes from active to reconnecting, but the event before it left starting",
    ),
    "a start taken away": (
        "DELETE FROM sessions_app_sessionevent WHERE session_id = '{third}' AND old = ''",
        "of session {third} goes from starting to ended, but the event before it left nothing",
    ),
    "an end taken away": (
        "DELETE FROM sessions_app_sessionevent WHERE session_id = '{third}' AND new = 'ended'",
        "session {third} is starting by the history, and has no slot",
    ),
    "all of a session's events taken away": (
        "DELETE FROM sessions_app_sessionevent WHERE session_id = '{third}'",
        "session {third} is ended, its last event says nothing",
    ),
    "a live session taken away with its events and its slot": (
        "DELETE FROM sessions_app_sessionevent WHERE session_id = '{first}'; DELETE FROM sessions_app_slot WHERE session_id = '{first}';"
        "DELETE FROM sessions_app_session WHERE id = '{first}'",
        "counter of tenant {tenant} says 6 in use, the history says 5",
    ),
    "a second end added": (
        f"{EVENT} SELECT session_id, nextval('voice_ledger_seq'), old, new, reason, at, actor, detail, tenant_id, backend_id"
        " FROM sessions_app_sessionevent WHERE session_id = '{third}' AND new = 'ended'",
        "of session {third} goes from starting to ended, but the event before it left nothing",
    ),
    "a second life added": (
        f"{EVENT} SELECT session_id, nextval('voice_ledger_seq'), '', 'rejected', 'x', at, actor, detail, tenant_id, backend_id"
        " FROM sessions_app_sessionevent WHERE session_id = '{refused}'",
        "of session {refused} begins a session that has begun before",
    ),
    "a step that no session takes": (
        f"{EVENT} SELECT session_id, nextval('voice_ledger_seq'), new, 'queued', '', at, actor, detail, tenant_id, backend_id"
        " FROM sessions_app_sessionevent WHERE session_id = '{second}' ORDER BY id DESC LIMIT 1",
        "of session {second} goes from reconnecting to queued, which no session does",
    ),
    "an event written among old ones": (
        f"{EVENT} SELECT session_id, seq, new, new, '', at, actor, detail, tenant_id, backend_id"
        " FROM sessions_app_sessionevent WHERE session_id = '{second}' AND new = 'active'",
        "and was written before event",
    ),
    "an event added to another's transaction": (
        f"{EVENT} SELECT session_id, (SELECT max(seq) FROM sessions_app_sessionevent), new, new, '', at, actor, detail,"
        " tenant_id, backend_id FROM sessions_app_sessionevent WHERE session_id = '{first}' ORDER BY id DESC LIMIT 1",
        "and another time than the rest of that transaction",
    ),
    "an event with a number from the future": (
        "UPDATE sessions_app_sessionevent SET seq = seq + 1000 WHERE id = (SELECT max(id) FROM sessions_app_sessionevent)",
        "the ledger has given out no more than",
    ),
    "an event on another backend": (
        "UPDATE sessions_app_sessionevent SET backend_id = backend_id + 1 WHERE session_id = '{second}' AND new = 'active'",
        "of session {second} is on backend",
    ),
    "an event of another tenant": (
        "UPDATE sessions_app_sessionevent SET tenant_id = 77 WHERE session_id = '{second}' AND old = ''",
        "is of tenant 77, its session of tenant {tenant}",
    ),
    "a limit's record changed": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{max_concurrent_sessions}}', '2')"
        " WHERE new ? 'max_concurrent_sessions' AND (new ->> 'max_concurrent_sessions')::int = 4 AND scope = 'tenant' AND ref = {tenant}",
        "at sequence number {third_seq} tenant {tenant} let one in and had 3 in use, its limit was 2",
    ),
    "a limit's record changed, seen by its neighbours": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{max_concurrent_sessions}}', '9')"
        " WHERE (new ->> 'max_concurrent_sessions')::int = 2 AND old IS NOT NULL AND scope = 'tenant' AND ref = {tenant}",
        "does not begin with what record",
    ),
    "a user's limit changed on record": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{max_sessions_per_user}}', '1') WHERE new ? 'max_sessions_per_user'",
        "user 'ann' of tenant {tenant} let one in and had 2 in use, its limit was 1",
    ),
    "a backend's cap changed on record": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{cap}}', '2') WHERE scope = 'backend' AND ref = {backend}",
        "backend {backend} let one in and had 3 in use, its limit was 2",
    ),
    "the platform's cap changed on record": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{max_concurrent_sessions}}', '1') WHERE scope = 'platform'",
        "the platform let one in and had 3 in use, its limit was 1",
    ),
    "a limit's record that is no number": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{cap}}', '\"many\"') WHERE scope = 'backend'",
        "of backend {backend} has no limit in its field cap",
    ),
    "a limit's first record taken away": (
        "DELETE FROM sessions_app_limitchange WHERE scope = 'backend' AND ref = {backend} AND old IS NULL",
        "the records of backend {backend} before record",
    ),
    "a limit's last record taken away": (
        "DELETE FROM sessions_app_limitchange WHERE scope = 'backend' AND ref = {backend} AND old IS NOT NULL",
        "left it: cap",
    ),
    "all of a limit's records taken away": (
        "DELETE FROM sessions_app_limitchange WHERE scope = 'tenant' AND ref = {tenant}",
        "the quota of tenant {tenant} has no record of its limits",
    ),
    "a limit changed behind its record": (
        "UPDATE tenants_quota SET max_sessions_per_user = 99 WHERE tenant_id = {tenant}",
        "the quota of tenant {tenant} is not as its last record",
    ),
    "a counter changed": (
        "UPDATE sessions_app_capacity SET active = 9 WHERE scope = 'tenant' AND ref = {tenant}",
        "counter of tenant {tenant} says 9 in use, the history says 6",
    ),
    "a slot taken away": (
        "DELETE FROM sessions_app_slot WHERE session_id = '{first}'",
        "session {first} is active by the history, and has no slot",
    ),
    "a slot changed": (
        "UPDATE sessions_app_slot SET \"user\" = 'eve' WHERE session_id = '{first}'",
        "the slot of session {first} is active for tenant {tenant} and user 'eve'",
    ),
    "a slot added": (
        'INSERT INTO sessions_app_slot (session_id, tenant_id, backend_id, "user", state, since)'
        " VALUES ('{third}', {tenant}, {backend}, 'ann', 'active', now())",
        "session {third} has a slot, by the history it has none",
    ),
    "an override changed on record": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{change}}', '1') WHERE new ? 'ends_at'",
        "tenant {tenant} let one in and had 6 in use, its limit was 5",
    ),
    "an override shortened on record": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{ends_at}}', new -> 'starts_at') WHERE new ? 'ends_at'",
        "tenant {tenant} let one in and had 5 in use, its limit was 4",
    ),
    "an override changed behind its record": (
        "UPDATE tenants_override SET ends_at = ends_at + interval '1 s'",
        "of tenant {tenant} is not as its last record",
    ),
    "an override's record that is no time": (
        "UPDATE sessions_app_limitchange SET new = jsonb_set(new, '{{ends_at}}', '\"later\"') WHERE new ? 'ends_at'",
        "of tenant {tenant} has no limit in its field ends_at",
    ),
    "a place in the queue taken away": (
        "DELETE FROM sessions_app_waiter",
        "counter of tenant {globex} says 1 waiting, its places in the queue are 0",
    ),
    "a place in the queue added": (
        'INSERT INTO sessions_app_waiter (session_id, tenant_id, "user", transport, pipeline, backend_name, since, place)'
        " VALUES ('{third}', {tenant}, 'ann', 'websocket', '', '', now(), 1)",
        "session {third} is ended, its place in the queue is there",
    ),
    "an opening balance added": (
        'INSERT INTO sessions_app_openingbalance (seq, scope, ref, "user", active, at) VALUES'
        " ({third_seq}, 'platform', 0, '', 3, now()), ({third_seq}, 'tenant', {tenant}, '', 2, now())",
        "the opening balance of tenant {tenant} says 2 in use at sequence number {third_seq}, the history says 3",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_was_done_from_outside_is_named_with_exit_code_1(world: World, sql: psycopg.Connection[Any], what: str) -> None:
    assert_clean()
    statement, wanted = BROKEN[what]
    third_seq = SessionEvent.objects.get(session_id=world.ids["third"], old="").seq
    known = {**world.ids, "tenant": world.tenant.pk, "backend": world.backend.pk, "third_seq": third_seq, "globex": world.globex.pk}
    with from_outside(sql):
        for each in statement.format(**known).split(";"):
            assert sql.execute(each.encode()).rowcount > 0
    code, said = verify_history()
    assert code == 1
    assert any(wanted.format(**known) in line for line in said), said


def test_a_limit_may_be_lowered_below_what_is_in_use(world: World, ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    sql.execute("UPDATE tenants_quota SET max_concurrent_sessions = 1, max_sessions_per_user = 0")
    sql.execute("UPDATE sessions_app_backend SET cap = 0")
    sql.execute("UPDATE sessions_app_platform SET max_concurrent_sessions = 1")
    assert not admitted(ledger.apply([admit(world.tenant)])[0]).verdict.admitted
    ledger.apply([End(SessionEvent.objects.earliest("id").session_id, Reason.COMPLETED)])
    assert_clean()


def test_a_backend_that_came_and_went_leaves_a_clean_record(world: World) -> None:
    backend = make_backend("short-lived")
    backend.delete()
    assert LimitChange.objects.filter(scope="backend", new__isnull=True).exists()
    assert_clean()


def test_no_more_than_fifty_findings_are_listed(world: World, sql: psycopg.Connection[Any]) -> None:
    with from_outside(sql):
        sql.execute("INSERT INTO sessions_app_capacity (scope, ref, active) SELECT 'backend', 1000 + n, 1 FROM generate_series(1, 80) n")
    code, said = verify_history()
    assert code == 1
    assert len(said) == 52
    assert said[50] == "… and 110 more."


def test_it_is_clean_on_a_platform_that_lives_meanwhile(world: World, sql: psycopg.Connection[Any]) -> None:
    """Two ledgers of two tenants on shared backends, and limits that are edited."""
    sql.execute("UPDATE sessions_app_platform SET max_concurrent_sessions = NULL")
    over = Flag()
    tenants = {each.slug: each for each in Tenant.objects.all()}

    def live(slug: str) -> int:
        tenant, rounds = tenants[slug], 0
        with new_ledger() as own:
            while not over.is_set():
                answers = [admitted(each) for each in own.apply([admit(tenant, user) for user in ("x", "y", "x")])]
                let_in = [each.session_id for each in answers if each.verdict.admitted]
                own.apply([Activate(each, NODE) for each in let_in])
                own.apply([End(each, Reason.COMPLETED) for each in let_in])
                rounds += 1
        return rounds

    with ThreadPoolExecutor(2) as threads:
        living = [threads.submit(live, slug) for slug in ("acme", "globex")]
        try:
            histories = []
            for round_ in range(8):
                histories.append(verification.history())
                for tenant in tenants.values():
                    sql.execute("UPDATE tenants_quota SET max_concurrent_sessions = %s WHERE tenant_id = %s", (1 + round_ % 5, tenant.pk))
                sql.execute("UPDATE sessions_app_backend SET cap = %s WHERE id = %s", (3 + round_ % 3, world.backend.pk))
                sql.execute("UPDATE sessions_app_platform SET max_concurrent_sessions = %s", (None if round_ % 2 else 5,))
        finally:
            over.set()
        assert all(each.result(20) > 0 for each in living)
    assert [each.findings for each in histories] == [[]] * 8
    assert_clean()


def test_a_longer_history_takes_no_more_memory(world: World, sql: psycopg.Connection[Any]) -> None:
    sql.execute("UPDATE sessions_app_backend SET cap = NULL WHERE id = %s", (world.backend.pk,))
    sql.execute("UPDATE tenants_quota SET max_concurrent_sessions = NULL")
    with from_outside(sql):
        sql.execute(
            """
            WITH new AS (
                INSERT INTO sessions_app_session (id, tenant_id, "user", state, reason, detail, backend_id, pipeline, transport, metadata,
                    limits, attempted_at, ended_at)
                SELECT gen_random_uuid(), %(tenant)s, 'user ' || n, 'ended', 'completed', '', %(backend)s, 's2s', 'websocket', '{}', '[]',
                    now(), now() FROM generate_series(1, 10000) n RETURNING id),
            numbered AS (SELECT id, nextval('voice_ledger_seq') AS seq FROM new)
            INSERT INTO sessions_app_sessionevent (session_id, seq, old, new, reason, at, actor, detail, tenant_id, backend_id)
            SELECT id, seq, old, new, '', now(), '', '{}', %(tenant)s, %(backend)s FROM numbered
            CROSS JOIN (VALUES (1, '', 'starting'), (2, 'starting', 'active'), (3, 'active', 'ended')) AS step(n, old, new)
            ORDER BY seq, n""",
            {"tenant": world.tenant.pk, "backend": world.backend.pk},
        )
    tracemalloc.start()
    try:
        history = verification.history()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (history.findings, history.events > 30_000) == ([], True)
    assert peak < 5_000_000
