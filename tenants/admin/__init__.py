"""Tenants in Django admin: who may talk, and how much. ``editing`` is for the pages of other apps' limits, too."""

from tenants.admin import tenants  # noqa: F401 - registers its pages
