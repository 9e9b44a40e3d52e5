"""``manage.py bootstrap``: what a fresh platform needs to be tried. Run by ``make run`` at every start; makes only what is missing."""

import secrets
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import transaction

from sessions_app.models import Backend
from tenants import services as tenant_services
from tenants.management import edits
from tenants.models import Tenant

ADMIN: Final = "admin"
DEMO: Final = "demo"


class Command(BaseCommand):
    """Make the demo tenant, the loopback backend and the admin user."""

    help = (
        "Make what a fresh platform needs to be tried: a tenant 'demo', a backend 'loopback' that answers with your own voice, and an "
        "administrator 'admin', who is a member of the demo tenant. Prints the administrator's generated password once, when it makes the "
        "user. A platform that has any tenant, backend or user keeps what it has."
    )

    @transaction.atomic
    def handle(self, *_: Any, **__: Any) -> None:
        """Run."""
        users = get_user_model()
        editor = {"actor": edits.actor(), "note": "The first start."}
        tenant_services.name_editor(**editor)
        if not Backend.objects.exists():
            Backend.objects.create(name="loopback", provider="loopback", pipelines={"s2s": {}, "stt_tts": {}})
        if not Tenant.objects.exists():
            tenant_services.create_tenant(slug=DEMO, name="Demo", **editor)
        if not users.objects.exists():
            password = secrets.token_urlsafe(12)
            admin = users.objects.create_superuser(username=ADMIN, password=password)
            demo = Tenant.objects.filter(slug=DEMO).first()
            if demo is not None:
                tenant_services.add_member(tenant=demo, user=admin)
            self.stdout.write(f"admin user: {ADMIN}\nadmin password: {password}   (shown this once)")
