"""The ways a session ends, as the client hears of it, as the history tells it, and that its slot is free."""

import time
from collections.abc import Callable
from uuid import UUID

import pytest

from sessions_app.models import Session
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import over, record, slots, states
from tests.e2e.server import manage, wait_until

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]


@pytest.fixture(autouse=True)
def _capacity_is_clean(shared_db: None) -> object:
    yield
    manage("verify_capacity")


def test_a_stop_completes_it_with_the_right_duration(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(backend={"options": {"delay_ms": 500}})
    call = dial(tenant)
    started = call.start(metadata={"shop": "14"})
    began = time.monotonic()
    call.exchange([bytes(960)] * 25)  # half a second of delay, half a second of speech
    ended = call.stop()
    lasted_ms = (time.monotonic() - began) * 1000
    assert ended["reason"] == "completed"
    assert lasted_ms >= 500
    assert abs(ended["duration_ms"] - lasted_ms) < 1500
    session = over(started["session_id"])
    assert (session.state, session.reason, session.metadata) == ("ended", "completed", {"shop": "14"})
    assert session.duration_ms is not None
    assert abs(session.duration_ms - lasted_ms) < 1500
    assert states(session.pk) == ["starting", "active", "ended"]
    assert slots(tenant) == 0


def test_a_close_with_1000_completes_it(dial: Dial, new_tenant: NewTenant) -> None:
    call = dial(new_tenant())
    started = call.start()
    call.socket.close(1000)
    assert over(started["session_id"]).reason == "completed"


def test_a_lost_client_has_its_grace_and_then_loses_the_slot(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(grace_s=2)
    call = dial(tenant)
    session_id = call.start()["session_id"]
    dropped = time.monotonic()
    call.drop()
    wait_until(lambda: record(session_id).state == "reconnecting")
    assert slots(tenant) == 1
    session = over(session_id)
    waited = time.monotonic() - dropped
    assert (session.state, session.reason) == ("ended", "client_lost")
    assert 1.5 < waited < 20
    assert states(session_id) == ["starting", "active", "reconnecting", "ended"]
    assert slots(tenant) == 0


def test_a_backend_that_cannot_be_opened_fails_the_attempt_and_keeps_no_slot(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(backend={"options": {"fail_open": True}})
    refusal, code = dial(tenant).refused()
    assert (refusal["code"], code) == ("connection_failed", 4503)
    wait_until(lambda: slots(tenant) == 0)
    session = over(_only_session(tenant))
    assert (session.state, session.reason) == ("failed", "connection_failed")
    assert session.detail


def test_a_backend_that_does_not_answer_in_time_fails_the_attempt(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(backend={"options": {"hang_open": True}})
    refusal, code = dial(tenant).refused()
    assert (refusal["code"], code) == ("timeout", 4503)
    assert over(_only_session(tenant)).state == "failed"
    wait_until(lambda: slots(tenant) == 0)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("die_after_ms", ("provider_failed", "failed", 4503)),
        ("pipeline_error_after_ms", ("pipeline_error", "failed", 4503)),
        ("end_after_ms", ("provider_ended", "ended", 1000)),
    ],
)
def test_a_backend_that_dies_or_hangs_up_ends_it(dial: Dial, new_tenant: NewTenant, option: str, expected: tuple[str, str, int]) -> None:
    tenant = new_tenant(backend={"options": {option: 300}})
    call = dial(tenant)
    session_id = call.start()["session_id"]
    ended = call.message("session.ended")
    session = over(session_id)
    assert ended["reason"] == session.reason
    assert (session.reason, session.state, call.closed()) == expected
    wait_until(lambda: slots(tenant) == 0)


@pytest.mark.parametrize(("field", "reason"), [("max_duration_s", "max_duration"), ("idle_timeout_s", "idle_timeout")])
def test_a_session_that_is_too_long_or_silent_is_ended(dial: Dial, new_tenant: NewTenant, field: str, reason: str) -> None:
    call = dial(new_tenant(**{field: 1}))
    started = call.start()
    assert started["limits"][field] == 1
    assert (call.message("session.ended")["reason"], call.closed()) == (reason, 4000)
    assert over(started["session_id"]).reason == reason


def _only_session(tenant: Tenant) -> UUID:
    return Session.objects.get(tenant=tenant).pk
