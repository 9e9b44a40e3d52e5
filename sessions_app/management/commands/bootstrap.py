"""``manage.py bootstrap``: what a fresh platform needs to be tried. Run by ``make run`` at every start; makes only what is missing.

The backend ``livekit`` alone is kept up with: its address and keys are those that the environment names, or of the server that was just
started.
"""

import secrets
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand
from django.db import transaction

from sessions_app.models import Backend
from sessions_app.services import configuration
from tenants import services as tenant_services
from tenants.management import edits
from tenants.models import Tenant

ADMIN: Final = "admin"
LIVEKIT: Final = "livekit"
DEMO: Final = "demo"


class Command(BaseCommand):
    """Make the demo tenant, the loopback backend and the admin user."""

    help = (
        "Make what a fresh platform needs to be tried: a tenant 'demo', a backend 'loopback' that answers with your own voice, and an "
        "administrator 'admin', who is a member of the demo tenant. Prints the administrator's generated password once, when it makes the "
        "user. A platform that has any tenant, backend or user keeps what it has. With LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET "
        "there is a backend 'livekit' besides, which follows them at every start."
    )

    @transaction.atomic
    def handle(self, *_: Any, **__: Any) -> None:
        """Run."""
        users = get_user_model()
        editor = {"actor": edits.actor(), "note": "The first start."}
        tenant_services.name_editor(**editor)
        if not Backend.objects.exists():
            Backend.objects.create(name="loopback", provider="loopback", pipelines={"s2s": {}, "stt_tts": {}})
        if settings.LIVEKIT_URL and settings.LIVEKIT_API_KEY and settings.LIVEKIT_API_SECRET:
            configuration.keep_livekit(
                name=LIVEKIT,
                url=settings.LIVEKIT_URL,
                api_key=settings.LIVEKIT_API_KEY,
                api_secret=settings.LIVEKIT_API_SECRET,
                echo_agent_url=settings.ECHO_AGENT_URL,
                actor=editor["actor"],
                note="As the start found it.",
            )
        if not Tenant.objects.exists():
            tenant_services.create_tenant(slug=DEMO, name="Demo", **editor)
        if not users.objects.exists():
            password = secrets.token_urlsafe(12)
            admin = users.objects.create_superuser(username=ADMIN, password=password)
            demo = Tenant.objects.filter(slug=DEMO).first()
            if demo is not None:
                tenant_services.add_member(tenant=demo, user=admin)
            self.stdout.write(f"admin user: {ADMIN}\nadmin password: {password}   (shown this once)")
