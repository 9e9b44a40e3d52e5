"""The Django application of the voice sessions."""

from django.apps import AppConfig


class SessionsAppConfig(AppConfig):
    """Voice sessions: records, admission, live path, doors."""

    name = "sessions_app"
    verbose_name = "Voice sessions"

    def ready(self) -> None:
        """Register the system checks, and a tenant's live use on its admin page."""
        # Models can be imported from here on, not before.
        from sessions_app import admin, checks  # noqa: F401 - importing the checks registers them
        from tenants import extensions

        extensions.register_panel("In use now", admin.live_use_panel)
