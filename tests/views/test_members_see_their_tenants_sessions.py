"""A member sees the sessions of a tenant that the member acts for, in the tenant's cut, and nobody else's."""

import re
from uuid import UUID

from django.contrib.auth.models import User
from django.test import Client

from sessions_app.domain.operations import Activate, End
from sessions_app.domain.states import Reason
from sessions_app.models import Platform
from sessions_app.services.ledger import Ledger
from tenants import services
from tenants.models import Quota, Tenant
from tests.views.conftest import text
from tests.world import NODE, admit, make_backend, make_tenant

ADDRESS = "/sessions/"


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def listed(client: Client, **query: str) -> list[UUID]:
    return [UUID(each) for each in re.findall(rf'href="{ADDRESS}([0-9a-f-]{{36}})/"', text(client, ADDRESS, **query))]


def test_strangers_sign_in_first_and_outsiders_find_nothing(stranger: Client, outsider: Client, staff: Client, ledger: Ledger) -> None:
    make_backend()
    asked = admit(make_tenant("birch"))
    ledger.apply([asked])
    for address in (ADDRESS, f"{ADDRESS}{asked.attempt.session_id}/"):
        assert stranger.get(address)["Location"] == f"/accounts/login/?next={address}"
        assert outsider.get(address).status_code == 404
        assert staff.get(address).status_code == 404  # they act for no tenant, and have pages of their own


def test_another_tenants_sessions_are_not_there(member: Client, acme: Tenant, ledger: Ledger) -> None:
    make_backend()
    birch = make_tenant("birch")
    mine, theirs = admit(acme, "ann"), admit(birch, "ann")
    ledger.apply([mine, theirs])
    assert listed(member) == [mine.attempt.session_id]
    assert member.get(f"{ADDRESS}{mine.attempt.session_id}/").status_code == 200
    refused = [
        member.get(f"{ADDRESS}{theirs.attempt.session_id}/"),
        member.get(f"{ADDRESS}{UUID(int=7)}/"),
        member.get(ADDRESS, {"tenant": "birch"}),
        member.get(ADDRESS, {"tenant": "nobody"}),
    ]
    assert {each.status_code for each in refused} == {404}
    assert {re.sub(r'value="[^"]*"', "", each.content.decode()) for each in refused} == {
        re.sub(r'value="[^"]*"', "", refused[0].content.decode())
    }


def test_a_member_of_several_tenants_chooses(member: Client, acme: Tenant, ledger: Ledger) -> None:
    make_backend()
    birch = make_tenant("birch")
    services.add_member(tenant=birch, user=User.objects.get(username="ann"))
    mine, theirs = admit(acme), admit(birch)
    ledger.apply([mine, theirs])
    assert listed(member) == [mine.attempt.session_id]
    assert listed(member, tenant="birch") == [theirs.attempt.session_id]
    assert 'href="?tenant=birch"' in text(member, ADDRESS)


def test_own_numbers_are_shown_and_those_of_what_is_shared_are_not(member: Client, acme: Tenant, ledger: Ledger) -> None:
    make_backend(cap=4711)
    Platform.objects.update(max_concurrent_sessions=8765)
    Quota.objects.filter(tenant=acme).update(max_concurrent_sessions=1)
    first, second = admit(acme, "ann"), admit(acme, "bob")
    ledger.apply([first, second])
    page = text(member, ADDRESS)
    assert "Organisation 1 of 1" in words(page)
    assert "User 0 of any number" in words(page)
    assert "session_limit_exceeded" in page
    assert "Your organisation has as many sessions as it may have at once." in words(page)
    session = text(member, f"{ADDRESS}{second.attempt.session_id}/")
    assert "Organisation (full) 1 1" in words(session)
    assert "Voice service shared with others" in words(session)
    for each in (page, session):
        assert "4711" not in each
        assert "8765" not in each


def test_what_is_shared_is_said_to_be_full_when_it_refused(member: Client, acme: Tenant, ledger: Ledger) -> None:
    make_backend(cap=0)
    asked = admit(acme)
    ledger.apply([asked])
    assert "Voice service full" in words(text(member, ADDRESS))
    assert "Voice service (full) shared with others" in words(text(member, f"{ADDRESS}{asked.attempt.session_id}/"))


def test_operators_words_and_nodes_are_not_for_members(member: Client, acme: Tenant, ledger: Ledger) -> None:
    make_backend()
    asked = admit(acme)
    ledger.apply([asked])
    ledger.apply([Activate(asked.attempt.session_id, NODE)])
    ledger.apply([End(asked.attempt.session_id, Reason.TERMINATED, "A spammer, says support.", actor="olga")])
    page = text(member, f"{ADDRESS}{asked.attempt.session_id}/")
    assert "terminated" in page
    assert "An operator ended the session." in page
    assert "spammer" not in page
    assert "olga" not in page
    assert str(NODE) not in page


def test_a_wait_and_a_burst_are_told(member: Client, acme: Tenant, staff: Client, ledger: Ledger) -> None:
    make_backend()
    Quota.objects.filter(tenant=acme).update(max_concurrent_sessions=1, burst=1, max_queue_length=3)
    asked = [admit(acme, f"u{n}") for n in range(3)]
    ledger.apply(asked)
    ledger.apply([End(asked[0].attempt.session_id, Reason.COMPLETED)])
    burst, waiter = asked[1].attempt.session_id, asked[2].attempt.session_id
    for client, address in ((member, ADDRESS), (staff, "/ops/sessions/")):
        page = text(client, address)
        assert page.count(">burst</span>") == 2
        assert re.search(r'data-label="Waited" class="right number nowrap">\d+ ms', page)
        told = words(text(client, f"{address}{burst}/"))
        assert "starting burst" in told
        assert "limit, as a burst." in told
        assert re.search(r"1 1 \+ 1 burst", told)
        assert re.search(r"Waited \d+ ms", words(text(client, f"{address}{waiter}/")))


def test_filters_find_what_they_name(member: Client, acme: Tenant, ledger: Ledger) -> None:
    make_backend()
    Quota.objects.filter(tenant=acme).update(max_concurrent_sessions=1)
    first, second = admit(acme, "ann"), admit(acme, "bob")
    ledger.apply([first, second])
    one, two = first.attempt.session_id, second.attempt.session_id
    assert listed(member, user="bob") == [two]
    assert listed(member, state="starting") == [one]
    assert listed(member, reason="session_limit_exceeded", tenant="acme") == [two]
    assert listed(member, backend="nobody") == [two, one]  # not a filter of this page
    assert listed(member, since="soon") == []


def test_the_way_there_is_in_the_bar(member: Client, admin: Client) -> None:
    assert f'href="{ADDRESS}"' in text(member, "/talk/")
    assert f'href="{ADDRESS}"' not in text(admin, "/ops/sessions/")
