"""Who may act for a tenant."""

import pytest
from django.contrib.auth.models import AnonymousUser, User

from tenants import selectors, services
from tenants.exceptions import NotAMember, TenantNotFound
from tenants.models import Membership, Tenant

pytestmark = pytest.mark.django_db


@pytest.fixture
def ann() -> User:
    return User.objects.create(username="ann")


@pytest.fixture
def acme() -> Tenant:
    return services.create_tenant(slug="acme")


def test_a_member_acts_for_the_tenant(ann: User, acme: Tenant) -> None:
    services.add_member(tenant=acme, user=ann)
    assert selectors.tenant_for_member(ann) == acme
    assert selectors.tenant_for_member(ann, "acme") == acme


def test_an_outsider_is_told_the_same_of_a_tenant_and_of_none(ann: User, acme: Tenant) -> None:
    for slug in (None, "acme", "nothing-of-this-name"):
        with pytest.raises(NotAMember) as caught:
            selectors.tenant_for_member(ann, slug)
        assert str(caught.value) == "The user is not a member of this tenant."


def test_a_superuser_who_is_not_a_member_is_an_outsider(acme: Tenant) -> None:
    with pytest.raises(NotAMember):
        selectors.tenant_for_member(User.objects.create(username="root", is_superuser=True, is_staff=True))


def test_nobody_signed_in_is_a_member_of_nothing(acme: Tenant) -> None:
    assert list(selectors.memberships(AnonymousUser())) == []
    with pytest.raises(NotAMember):
        selectors.tenant_for_member(AnonymousUser(), "acme")


def test_the_member_of_one_tenant_is_an_outsider_of_the_other(ann: User, acme: Tenant) -> None:
    services.create_tenant(slug="other")
    services.add_member(tenant=acme, user=ann)
    with pytest.raises(NotAMember):
        selectors.tenant_for_member(ann, "other")


def test_without_a_name_the_tenant_joined_first_is_meant(ann: User, acme: Tenant) -> None:
    earlier = services.create_tenant(slug="zebra")
    services.add_member(tenant=earlier, user=ann)
    services.add_member(tenant=acme, user=ann)
    assert selectors.tenant_for_member(ann) == earlier
    assert [each.tenant.slug for each in selectors.memberships(ann)] == ["zebra", "acme"]


def test_joining_twice_is_one_membership(ann: User, acme: Tenant) -> None:
    assert services.add_member(tenant=acme, user=ann) == services.add_member(tenant=acme, user=ann)
    assert Membership.objects.count() == 1


def test_a_tenant_that_is_not_there_has_a_sentence() -> None:
    with pytest.raises(TenantNotFound, match=r"^There is no tenant with the slug 'acme'\.$"):
        selectors.tenant_by_slug("acme")
