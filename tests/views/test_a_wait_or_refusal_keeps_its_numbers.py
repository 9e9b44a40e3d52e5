"""What made somebody wait, and which rate or queue was used up, can be read later: by staff whole, by members in their cut."""

from django.test import Client

from sessions_app.domain.operations import End
from sessions_app.domain.states import Reason
from sessions_app.models import SessionEvent
from sessions_app.services.ledger import Ledger
from tenants.models import Quota, Tenant
from tests.views.conftest import text
from tests.views.test_members_see_their_tenants_sessions import words
from tests.world import admit, make_backend

OPS, OWN = "/ops/sessions/", "/sessions/"


def test_what_was_in_use_when_a_wait_began_is_told_after_the_promotion(member: Client, staff: Client, acme: Tenant, ledger: Ledger) -> None:
    make_backend(cap=1)
    Quota.objects.filter(tenant=acme).update(max_queue_length=5, max_sessions_per_user=3, max_concurrent_sessions=None)
    first, second = admit(acme, "ann"), admit(acme, "bob")
    ledger.apply([first, second])
    ledger.apply([End(first.attempt.session_id, Reason.COMPLETED)])
    address = f"{second.attempt.session_id}/"
    waits, gets = "User 0 of 3; Tenant 1 of any number; Backend 1 of 1; Platform 1 of any number.", "0 1"
    told = words(text(staff, OPS + address))
    assert f"In use when it began to wait: {waits}" in told
    assert f"Backend {gets}" in told  # the vector of the promotion is its record's
    mine = words(text(member, OWN + address))
    assert "In use when it began to wait: User 0 of 3; Organisation 1 of any number." in mine


def test_a_used_up_rate_is_told_with_its_figure(member: Client, staff: Client, acme: Tenant, ledger: Ledger) -> None:
    make_backend()
    Quota.objects.filter(tenant=acme).update(sessions_per_minute=1)
    refused = [admit(acme, "ann"), admit(acme, "bob")][::-1]
    ledger.apply(refused[::-1])
    assert SessionEvent.objects.get(session=refused[0].attempt.session_id).detail == {"rate": "tenant", "sessions_per_minute": 1}
    address = f"{refused[0].attempt.session_id}/"
    assert "The tenant may start 1 sessions a minute, and had." in words(text(staff, OPS + address))
    assert "The organisation may start 1 sessions a minute, and had." in words(text(member, OWN + address))


def test_a_full_queue_is_told_with_its_length(member: Client, staff: Client, acme: Tenant, ledger: Ledger) -> None:
    make_backend()
    Quota.objects.filter(tenant=acme).update(max_concurrent_sessions=1, max_queue_length=1)
    asked = [admit(acme, name) for name in ("ann", "bob", "cem")]
    ledger.apply(asked)
    address = f"{asked[2].attempt.session_id}/"
    for client, where in ((staff, OPS), (member, OWN)):
        assert "1 of 1 places in the queue were taken." in words(text(client, where + address))
