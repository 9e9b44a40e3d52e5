"""``manage.py create_tenant``: a door to ``tenants.services.create_tenant``."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tenants import services
from tenants.exceptions import TenantsError
from tenants.management import edits


class Command(BaseCommand):
    """Create a tenant with the default quota."""

    help = "Create an active tenant with the default quota, which set_quota or the admin change. Fails if the slug is taken."

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the slug, and a name to show."""
        parser.add_argument(
            "slug", metavar="SLUG", help="what commands call it: lower-case letters, digits, hyphens, underscores; 50 at most"
        )
        parser.add_argument("--name", default="", help="the name that people see; the slug where left out")
        edits.add_reason(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Create it."""
        try:
            tenant = services.create_tenant(slug=options["slug"], name=options["name"], actor=edits.actor(), note=edits.reason(options))
        except TenantsError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Created tenant {tenant.slug} ({tenant.name}).")
