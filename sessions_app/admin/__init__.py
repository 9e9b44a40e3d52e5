"""Voice sessions in Django admin: limits are edited (``backends``), what machines write is looked at (``records``, ``rooms``,
``limit_changes``).

Owns: the panel with a tenant's live use and the limits in force beside it, for the tenant's page.
"""

from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from sessions_app.admin import records, rooms  # noqa: F401 - register their pages
from sessions_app.admin.backends import used_of
from sessions_app.admin.limit_changes import changes_panel
from sessions_app.selectors import usage
from tenants import selectors
from tenants.models import Quota, Tenant

__all__ = ["changes_panel", "live_use_panel"]


def live_use_panel(tenant: Tenant) -> SafeString:
    """Return what a tenant uses now, the limits that overrides change, and the way to its history; for the tenant's page."""
    quota = getattr(tenant, "quota", None)
    limits = selectors.limits_in_force(quota) if quota else {}
    most = limits["max_concurrent_sessions"].value if limits else None
    changed = [each for each in limits.values() if each.overrides]
    return format_html(
        '<p><strong id="live-use">{}</strong> sessions at the same time{}. <a href="{}?tenant={}">History of this tenant</a></p>{}{}',
        used_of(usage.tenant_use(tenant.pk), most),
        f", {queued} waiting" if (queued := usage.tenant_queue(tenant.pk)) else "",
        reverse("ops-sessions"),
        tenant.slug,
        _reserved(quota) if quota and quota.reserved else "",
        format_html_join("", "<p>{}: {}</p>", ((each.field, str(each)) for each in changed)),
    )


def _reserved(quota: Quota) -> SafeString:
    place = usage.reservation(quota)
    if place is None:
        return format_html("<p>{} slots are reserved, but there is no backend to reserve them on.</p>", quota.reserved)
    return format_html(
        "<p>{} slots are reserved on {}, {} of them in use.</p>", quota.reserved, place.backend, min(place.used, quota.reserved)
    )
