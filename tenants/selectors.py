"""Reads about tenants, their members, and their limits as overrides change them for a time.

Refuses: telling an outsider whether a tenant exists. Overrides are compared with the database's clock, as admission does.
"""

from dataclasses import dataclass

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db.models import QuerySet
from django.db.models.functions import Now

from tenants.exceptions import NotAMember, TenantNotFound
from tenants.models import OVERRIDABLE, Membership, Override, Quota, Tenant


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit as it is in force now.

    ``base`` is the quota's figure (None: unlimited), which ``overrides`` change, the first to end first.
    """

    field: str
    base: int | None
    overrides: tuple[Override, ...] = ()

    @property
    def value(self) -> int | None:
        """The figure in force; None is unlimited, whatever the overrides say."""
        return None if self.base is None else max(0, self.base + sum(each.change for each in self.overrides))

    def __str__(self) -> str:
        """As ``10 + 20 until Fri 2026-11-27 18:00 UTC = 30``."""
        if self.base is None:
            return "unlimited"
        changes = [
            f"{'+' if each.change >= 0 else '−'} {abs(each.change)} until {each.ends_at:%a %Y-%m-%d %H:%M} UTC" for each in self.overrides
        ]
        return " ".join([str(self.base), *changes, *([f"= {self.value}"] if changes else [])])


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


def overrides_in_force() -> QuerySet[Override]:
    """Return every tenant's overrides that are in force now, the first to end first."""
    return Override.objects.filter(starts_at__lte=Now(), ends_at__gt=Now()).order_by("ends_at", "id")


def limits_in_force(quota: Quota) -> dict[str, Limit]:
    """Return by field the limits that overrides may change, as they are in force now."""
    changes: dict[str, list[Override]] = {field: [] for field in OVERRIDABLE}
    for override in overrides_in_force().filter(tenant_id=quota.tenant_id):
        changes[override.field].append(override)
    return {field: Limit(field, getattr(quota, field), tuple(found)) for field, found in changes.items()}
