"""``manage.py issue_api_key``: a door to ``tenants.services.issue_api_key``."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tenants import selectors, services
from tenants.exceptions import TenantsError


class Command(BaseCommand):
    """Issue an API key to a tenant."""

    help = (
        "Issue an API key to a tenant's servers and print it, alone, on standard output. It is shown only now: of the key a hash is kept. "
        "Revoke it on the tenant's page in the admin."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the slug, and what the key is for."""
        parser.add_argument("slug", metavar="SLUG", help="the tenant")
        parser.add_argument("--name", default="", help="what will use it, shown in the list of keys")

    def handle(self, *args: Any, **options: Any) -> None:
        """Issue it."""
        try:
            tenant = selectors.tenant_by_slug(options["slug"])
            key = services.issue_api_key(tenant=tenant, name=options["name"])
        except TenantsError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(key)
