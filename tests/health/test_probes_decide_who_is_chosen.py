import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import psycopg
from cryptography.fernet import Fernet
from django.db import connection
from pytest_django.fixtures import Settings

from sessions_app.domain.states import Reason
from sessions_app.models import Backend, BackendHealth
from sessions_app.models.fields import Undecipherable
from sessions_app.runtime import backends, prober
from sessions_app.runtime.database import in_thread
from sessions_app.services import health
from sessions_app.services.health import Outcome
from sessions_app.services.ledger import Ledger
from tests.world import admit, admitted, make_backend, make_tenant

SECRET = "a key that nobody must see"


def unprobed(**fields: Any) -> Backend:
    return Backend.objects.create(name="loopback", provider="loopback", **fields)


def stored() -> str:
    return str(Backend.objects.extra(select={"raw": "secrets"}).values_list("raw", flat=True)[0])


def reason_now(ledger: Ledger) -> Reason | None:
    from tenants.models import Tenant

    tenant = Tenant.objects.first() or make_tenant()
    return admitted(ledger.apply([admit(tenant)])[0]).verdict.reason


async def test_a_probe_that_is_answered_makes_a_backend_healthy(ledger: Ledger) -> None:
    backend = await in_thread(unprobed)
    assert await in_thread(reason_now, ledger) is Reason.BACKEND_UNHEALTHY
    assert await prober.probe_due_once(age_s=10) == 1
    seen = await in_thread(BackendHealth.objects.get, backend=backend)
    assert (seen.status, seen.failures, seen.error) == (BackendHealth.Status.HEALTHY, 0, "")
    assert seen.latency_ms is not None
    assert seen.claimed_until is None
    assert await in_thread(reason_now, ledger) is None


async def test_probed_backends_are_not_probed_again_before_their_time(committed_db: None) -> None:
    await in_thread(unprobed)
    assert [await prober.probe_due_once(age_s=10) for _ in range(2)] == [1, 0]
    assert await prober.probe_due_once(age_s=0) == 1


def test_one_failure_is_forgiven_two_are_not_and_one_success_heals(ledger: Ledger) -> None:
    backend = make_backend()
    failed = Outcome(error="No answer within 3 s.")
    assert health.record(backend_id=backend.id, outcome=failed) == "healthy"
    assert reason_now(ledger) is None
    assert health.record(backend_id=backend.id, outcome=failed) == "unhealthy"
    assert reason_now(ledger) is Reason.BACKEND_UNHEALTHY
    assert health.record(backend_id=backend.id, outcome=Outcome(latency_ms=1.0)) == "healthy"
    assert reason_now(ledger) is None


def test_a_backend_whose_last_probe_is_older_than_30_s_is_not_chosen(ledger: Ledger, sql: psycopg.Connection[Any]) -> None:
    make_backend()
    for age_s, reason in ((29, None), (31, Reason.BACKEND_UNHEALTHY)):
        sql.execute("UPDATE sessions_app_backendhealth SET last_probe_at = clock_timestamp() - make_interval(secs => %s)", (age_s,))
        assert reason_now(ledger) is reason
        assert health.backend_can_be_used(stale_s=30) is (reason is None)


def test_of_two_probes_at_once_one_counts(committed_db: None) -> None:
    backend = unprobed()
    start = Barrier(4)

    def claim() -> bool:
        start.wait()
        try:
            return health.claim(backend_id=backend.id, age_s=10, claim_s=6)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        claims = [threads.submit(claim) for _ in range(4)]
        assert sorted(each.result() for each in claims) == [False, False, False, True]
    health.record(backend_id=backend.id, outcome=Outcome(error="down"))
    assert not health.claim(backend_id=backend.id, age_s=10, claim_s=6)
    assert BackendHealth.objects.get().failures == 1


def test_a_claim_whose_holder_died_expires(committed_db: None, sql: psycopg.Connection[Any]) -> None:
    backend = unprobed()
    assert health.claim(backend_id=backend.id, age_s=10, claim_s=6)
    assert not health.claim(backend_id=backend.id, age_s=10, claim_s=6)
    sql.execute("UPDATE sessions_app_backendhealth SET claimed_until = clock_timestamp() - interval '1 s'")
    assert health.claim(backend_id=backend.id, age_s=10, claim_s=6)


async def test_a_probe_that_hangs_or_breaks_makes_only_its_own_backend_unhealthy(committed_db: None, settings: Settings) -> None:
    settings.VOICE_PROBE_TIMEOUT_S = 0.1
    good, hung, broken = [await in_thread(Backend.objects.create, name=name, provider="loopback") for name in ("good", "hung", "broken")]

    async def provider_for(backend_id: int) -> Any:
        if backend_id == hung.id:
            await asyncio.Event().wait()
        if backend_id == broken.id:
            raise RuntimeError("a bug")
        return await backends.provider_for(backend_id)

    for _ in range(2):
        assert await prober.probe_due(age_s=0, provider_for=provider_for) == 3
    seen = {each.backend_id: each for each in await in_thread(list, BackendHealth.objects.all())}
    assert [seen[each.id].status for each in (good, hung, broken)] == ["healthy", "unhealthy", "unhealthy"]
    assert seen[hung.id].error == "No answer within 0.1 s."
    assert seen[broken.id].error == "The probe failed: RuntimeError."


async def test_with_the_wrong_key_the_backend_is_unhealthy_and_says_why(committed_db: None, settings: Settings) -> None:
    backend = await in_thread(unprobed)
    assert await prober.probe_due(age_s=0) == 1  # with a provider that stays in this process's cache
    settings.VOICE_SECRET_KEYS = [Fernet.generate_key().decode()]
    await in_thread(Backend.objects.filter(pk=backend.pk).update, secrets={"key": SECRET})
    settings.VOICE_SECRET_KEYS = [Fernet.generate_key().decode()]
    for _ in range(2):
        await prober.probe_due(age_s=0)
    seen = await in_thread(BackendHealth.objects.get)
    assert seen.status == BackendHealth.Status.UNHEALTHY
    assert Undecipherable.sentence in seen.error
    assert SECRET not in seen.error
