"""The ways a session ends: what its client is told, what the history says, and that its slot is free then and not before."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from sessions_app.domain.states import MEANINGS, Reason, State
from sessions_app.models import Session, SessionEvent
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import over, record, slots, states
from tests.e2e.server import manage, wait_until

Dial = Callable[..., Call]
NewTenant = Callable[..., Tenant]
FRAME = bytes(960)


@pytest.fixture(autouse=True)
def _capacity_is_clean(shared_db: None) -> object:
    yield
    manage("verify_capacity")


def the_end(session_id: Any, reason: Reason, *, before: State = State.ACTIVE) -> SessionEvent:
    """Check that record, event and slot agree on the end, and return the event."""
    session = over(session_id)
    final = MEANINGS[reason].final
    assert (session.state, session.reason) == (final, reason)
    event = SessionEvent.objects.get(session_id=session_id, new=final)
    assert (event.old, event.reason, event.node_id) == (before, reason, session.node_id)
    assert slots(session.tenant) == 0
    return event


def ends_as(call: Call, session_id: str, reason: Reason) -> SessionEvent:
    """The client is told the reason and closed with its code, and the history says the same."""
    ended = call.message("session.ended", 20.0)
    assert (ended["reason"], call.closed()) == (reason, MEANINGS[reason].close)
    return the_end(session_id, reason)


def fails_as(call: Call, tenant: Tenant, reason: Reason) -> SessionEvent:
    """The client is told so before the session ever started, and the history says the same."""
    refusal, code = call.refused()
    assert (refusal["code"], refusal["message"], code) == (reason, MEANINGS[reason].message, MEANINGS[reason].close)
    return the_end(Session.objects.get(tenant=tenant).pk, reason, before=State.STARTING)


def test_a_stop_completes_it_with_the_right_duration(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(backend={"options": {"delay_ms": 500}})
    call = dial(tenant)
    started = call.start(metadata={"shop": "14"})
    began = time.monotonic()
    call.exchange([FRAME] * 25)  # half a second of delay, half a second of speech
    ended = call.stop()
    lasted_ms = (time.monotonic() - began) * 1000
    assert ended["reason"] == "completed"
    assert lasted_ms >= 500
    assert abs(ended["duration_ms"] - lasted_ms) < 1500
    the_end(started["session_id"], Reason.COMPLETED)
    session = record(started["session_id"])
    assert session.metadata == {"shop": "14"}
    assert session.duration_ms is not None
    assert abs(session.duration_ms - lasted_ms) < 1500
    assert states(session.pk) == ["starting", "active", "ended"]


def test_a_close_with_1000_completes_it(dial: Dial, new_tenant: NewTenant) -> None:
    call = dial(new_tenant())
    started = call.start()
    call.socket.close(1000)
    the_end(started["session_id"], Reason.COMPLETED)


def test_a_lost_client_has_its_grace_and_then_loses_the_slot(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(grace_s=2)
    call = dial(tenant)
    session_id = call.start()["session_id"]
    dropped = time.monotonic()
    call.drop()
    wait_until(lambda: record(session_id).state == "reconnecting")
    assert slots(tenant) == 1
    over(session_id)
    waited = time.monotonic() - dropped
    assert 1.5 < waited < 20
    the_end(session_id, Reason.CLIENT_LOST, before=State.RECONNECTING)
    assert states(session_id) == ["starting", "active", "reconnecting", "ended"]


def test_a_backend_that_cannot_be_opened_fails_the_attempt_and_keeps_no_slot(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(backend={"options": {"fail_open": True}})
    assert "fail_open" in fails_as(dial(tenant), tenant, Reason.CONNECTION_FAILED).detail["text"]


def test_a_backend_that_does_not_answer_in_time_fails_the_attempt(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(backend={"options": {"hang_open": True}})
    assert "within 5 s" in fails_as(dial(tenant), tenant, Reason.TIMEOUT).detail["text"]


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("die_after_ms", Reason.PROVIDER_FAILED),
        ("pipeline_error_after_ms", Reason.PIPELINE_ERROR),
        ("absent_after_ms", Reason.AGENT_ABSENT),
        ("end_after_ms", Reason.PROVIDER_ENDED),
    ],
)
def test_a_backend_that_dies_or_hangs_up_ends_it(dial: Dial, new_tenant: NewTenant, option: str, reason: Reason) -> None:
    call = dial(new_tenant(backend={"options": {option: 300}}))
    event = ends_as(call, call.start()["session_id"], reason)
    # Why it failed is for the operators; hanging up needs no explanation.
    assert (option in event.detail.get("text", "")) == (reason is not Reason.PROVIDER_ENDED)


@pytest.mark.parametrize(("field", "reason"), [("max_duration_s", Reason.MAX_DURATION), ("idle_timeout_s", Reason.IDLE_TIMEOUT)])
def test_a_session_that_is_too_long_or_silent_is_ended(dial: Dial, new_tenant: NewTenant, field: str, reason: Reason) -> None:
    call = dial(new_tenant(**{field: 1}))
    started = call.start()
    assert started["limits"][field] == 1
    ends_as(call, started["session_id"], reason)


def test_an_operator_ends_it_and_the_history_names_them(dial: Dial, new_tenant: NewTenant) -> None:
    call = dial(new_tenant())
    session_id = call.start()["session_id"]
    manage("end_session", session_id, "--reason", "the caller asked us to")
    event = ends_as(call, session_id, Reason.TERMINATED)
    assert event.actor
    assert event.detail == {"text": "the caller asked us to"}


def test_the_slot_is_free_when_the_backend_has_closed_and_not_before(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(max_concurrent_sessions=1, backend={"options": {"close_delay_ms": 1500}})
    call = dial(tenant)
    session_id = call.start()["session_id"]
    call.say({"type": "session.stop"})
    asked = time.monotonic()
    refusal, code = dial(tenant, "bob").refused()
    assert (refusal["code"], code) == ("session_limit_exceeded", 4429)
    ends_as(call, session_id, Reason.COMPLETED)
    assert time.monotonic() - asked >= 1.4
    dial(tenant, "bob").start()


def test_a_backend_that_never_closes_keeps_the_slot_for_five_seconds(dial: Dial, new_tenant: NewTenant) -> None:
    tenant = new_tenant(backend={"options": {"hang_close": True}})
    call = dial(tenant)
    session_id = call.start()["session_id"]
    call.say({"type": "session.stop"})
    asked = time.monotonic()
    ends_as(call, session_id, Reason.COMPLETED)
    assert 4.5 < time.monotonic() - asked < 20


def test_of_two_ends_the_first_counts(dial: Dial, new_tenant: NewTenant) -> None:
    call = dial(new_tenant(max_duration_s=1, backend={"options": {"end_after_ms": 300, "close_delay_ms": 1500}}))
    session_id = call.start()["session_id"]
    call.say({"type": "ping", "t": 1})
    call.message("pong")
    ends_as(call, session_id, Reason.PROVIDER_ENDED)
