"""The Django application of the voice sessions."""

from typing import TYPE_CHECKING, Any

from django.apps import AppConfig

if TYPE_CHECKING:
    from tenants.models import Tenant


class SessionsAppConfig(AppConfig):
    """Voice sessions: records, admission, live path, doors."""

    name = "sessions_app"
    verbose_name = "Voice sessions"

    def ready(self) -> None:
        """Register the system checks, what a tenant's admin page shows of its sessions and limits, and what a quota must fit."""
        # Models can be imported from here on, not before.
        from django.db.models.signals import pre_delete

        from sessions_app import admin, checks  # noqa: F401 - importing the checks registers them
        from sessions_app.services import configuration
        from tenants import extensions
        from tenants.models import Tenant

        extensions.register_panel("In use now", admin.live_use_panel)
        extensions.register_panel("Last changes of its limits", admin.changes_panel, below=True)
        extensions.register_quota_validator(configuration.check_reservation)
        pre_delete.connect(_tenant_goes, sender=Tenant)


def _tenant_goes(*, instance: "Tenant", **_: Any) -> None:
    from sessions_app.services import configuration

    configuration.give_up_reservation(tenant_id=instance.pk)
