"""A platform whose history can be made older, for tests of what is deleted then."""

import uuid
from typing import Any

import psycopg

from sessions_app.domain.operations import Activate, Admit, End
from sessions_app.domain.states import Reason
from sessions_app.models import EndRequest, OpeningBalance, Session
from sessions_app.services.ledger import Ledger
from tenants.models import Tenant
from tests.verify.outside import from_outside
from tests.world import NODE, admit, admitted, make_backend, make_tenant


class Past:
    """A platform whose history can be made older."""

    def __init__(self, ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
        self.ledger, self.sql = ledger, sql
        self.backend, self.tenant = make_backend(), make_tenant(max_sessions_per_user=4)
        self.other = make_tenant("globex")

    def start(self, user: str = "ann", tenant: Tenant | None = None) -> uuid.UUID:
        session_id = admitted(self.ledger.apply([admit(tenant or self.tenant, user)])[0]).session_id
        assert self.ledger.apply([Activate(session_id, NODE)]) == [True]
        return session_id

    def end(self, session_id: uuid.UUID) -> None:
        assert self.ledger.apply([End(session_id, Reason.COMPLETED)]) == [True]

    def refuse(self) -> uuid.UUID:
        attempt: Admit = admit(self.tenant, pipeline="unknown")
        assert not admitted(self.ledger.apply([attempt])[0]).verdict.admitted
        return attempt.attempt.session_id

    def limit(self, sessions: int) -> None:
        self.sql.execute("UPDATE tenants_quota SET max_concurrent_sessions = %s WHERE tenant_id = %s", (sessions, self.tenant.pk))

    def pass_days(self, days: int) -> None:
        with from_outside(self.sql):
            for table, columns in (
                ("session", ("attempted_at", "started_at", "active_at", "ended_at")),
                ("sessionevent", ("at",)),
                ("limitchange", ("at",)),
                ("node", ("started_at", "heartbeat_at")),
            ):
                changes = ", ".join(f"{column} = {column} - interval '{days} days'" for column in columns)
                self.sql.execute(f"UPDATE sessions_app_{table} SET {changes}".encode())


def balances() -> dict[tuple[str, int, str], int]:
    return {(each.scope, each.ref, each.user): each.active for each in OpeningBalance.objects.all()}


def release_claim(sql: psycopg.Connection[Any]) -> None:
    sql.execute("UPDATE sessions_app_claim SET until = clock_timestamp() - interval '1 s' WHERE name = 'prune'")


def a_history(past: Past) -> tuple[set[uuid.UUID], set[uuid.UUID]]:
    """Make a history on both sides of the retention; return the sessions that are to go, and those that are to stay."""
    gone = [past.start() for _ in range(3)]
    living, ended_late = past.start("bob"), past.start("cy")
    elsewhere = past.start("ann", past.other)
    past.limit(7)
    refused = past.refuse()
    past.limit(8)
    for each in gone:
        past.end(each)
    EndRequest.objects.create(session_id=gone[0], reason="terminated", asked_at="2020-01-01T00:00:00Z")
    past.pass_days(91)
    past.end(ended_late)
    past.limit(9)
    new, new_refused = past.start(), past.refuse()
    past.end(past.start())
    latest = Session.objects.latest("id").pk
    return {*gone, refused}, {living, ended_late, elsewhere, new, new_refused, latest}
