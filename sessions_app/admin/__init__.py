"""Voice sessions in Django admin: limits are edited (``backends``), what machines write is looked at (``records``).

Owns: the panel with a tenant's live use, for the tenant's page.
"""

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from sessions_app.admin import records  # noqa: F401 - registers its pages
from sessions_app.admin.backends import used_of
from sessions_app.selectors import usage
from tenants.models import Tenant


def live_use_panel(tenant: Tenant) -> SafeString:
    """Return what a tenant uses now, with the way to its history; for the tenant's page."""
    quota = getattr(tenant, "quota", None)
    return format_html(
        '<p><strong id="live-use">{}</strong> sessions at the same time. <a href="{}?tenant={}">History of this tenant</a></p>',
        used_of(usage.tenant_use(tenant.pk), quota.max_concurrent_sessions if quota else None),
        reverse("ops-sessions"),
        tenant.slug,
    )
