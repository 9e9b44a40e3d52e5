"""Attempts for which there is no backend: none that serves this, none that the tenant may use, or one that is set up wrongly."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from sessions_app.domain.states import MEANINGS, Reason
from sessions_app.models import BackendHealth, Session
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import backend_of, slots, states
from tests.e2e.server import wait_until

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]


def refused_as(call: Call, tenant: Tenant, reason: Reason, **wanted: Any) -> Session:
    """Message, close code and history say the same; no slot was held. Returns the attempt's record."""
    refusal, code = call.refused(**wanted)
    meaning = MEANINGS[reason]
    assert (refusal["code"], refusal["message"], code) == (reason, meaning.message, meaning.close)
    attempt = Session.objects.filter(tenant=tenant).latest("pk")
    assert (attempt.state, attempt.reason) == (meaning.final, reason)
    wait_until(lambda: slots(tenant) == 0)
    return attempt


@pytest.mark.parametrize("wanted", [{"pipeline": "stt_tts"}, {"transport": "webrtc"}])
def test_what_no_backend_serves_is_not_found(dial: Dial, new_tenant: NewTenant, wanted: dict[str, str]) -> None:
    tenant = new_tenant(backend={"pipelines": {"s2s": {}}, "transports": ["websocket"]})
    attempt = refused_as(dial(tenant), tenant, Reason.PROVIDER_NOT_FOUND, **wanted)
    assert states(attempt.pk) == ["rejected"]
    dial(tenant).start(pipeline="s2s", transport="websocket")


def test_a_backend_of_others_may_not_be_asked_for(dial: Dial, new_tenant: NewTenant) -> None:
    tenant, other = new_tenant(), new_tenant(backend={})
    attempt = refused_as(dial(tenant), tenant, Reason.AUTHORIZATION_FAILED, backend=backend_of(other).name)
    assert states(attempt.pk) == ["rejected"]


def test_a_backend_with_wrong_settings_fails_the_session_and_is_unhealthy_from_the_next_probes_on(
    dial: Dial, new_tenant: NewTenant
) -> None:
    tenant = new_tenant(backend={"options": {"nonsense": 1}})
    attempt = refused_as(dial(tenant), tenant, Reason.CONNECTION_FAILED)
    assert "nonsense" in attempt.detail
    assert states(attempt.pk) == ["starting", "failed"]
    health = BackendHealth.objects.filter(backend=backend_of(tenant))

    def unhealthy() -> bool:
        # As if the last probe were long ago, so that the server sends another one.
        health.filter(claimed_until=None).update(last_probe_at=timezone.now() - timedelta(seconds=20))
        return health.filter(status="unhealthy").exists()

    wait_until(unhealthy, 20, "two bad probes")
    assert "nonsense" in health.get().error
    refused_as(dial(tenant), tenant, Reason.BACKEND_UNHEALTHY)
