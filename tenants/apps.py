"""The Django app of tenants: it starts nothing and knows nothing of sessions."""

from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Who may talk, and how much."""

    name = "tenants"
    default_auto_field = "django.db.models.BigAutoField"
