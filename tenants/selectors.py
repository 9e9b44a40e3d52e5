"""Reads about tenants and their members. Refuses: telling an outsider whether a tenant exists."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import QuerySet

from tenants.exceptions import NotAMember, TenantNotFound
from tenants.models import Membership, Tenant


def tenant_by_slug(slug: str) -> Tenant:
    """Return the tenant with its quota, for those who may see all tenants: commands and staff.

    Raises:
        TenantNotFound: there is none.
    """
    tenant = Tenant.objects.select_related("quota").filter(slug=slug).first()
    if tenant is None:
        raise TenantNotFound(f"There is no tenant with the slug {slug!r}.")
    return tenant


def memberships(user: AbstractBaseUser | AnonymousUser) -> QuerySet[Membership]:
    """Return the memberships of a user with their tenants, the oldest first; nobody who is not signed in has one."""
    found = Membership.objects.select_related("tenant__quota").order_by("id")
    return found.none() if user.pk is None else found.filter(user_id=user.pk)


def tenant_for_member(user: AbstractBaseUser | AnonymousUser, slug: str | None = None) -> Tenant:
    """Return the tenant that a user acts for: the named one, or without a name the one that the user joined first.

    A suspended tenant is returned too: admission refuses it with the reason that the user should see.

    Raises:
        NotAMember: the user is in no tenant, or not in this one, or this one does not exist; told alike.
    """
    found = memberships(user)
    membership = (found if slug is None else found.filter(tenant__slug=slug)).first()
    if membership is None:
        raise NotAMember
    return membership.tenant
