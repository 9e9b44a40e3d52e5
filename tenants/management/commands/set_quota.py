"""``manage.py set_quota``: a door to ``tenants.services.set_quota``."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter

from tenants import services
from tenants.exceptions import TenantsError


class _Formatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's order of options, and the list of fields as it was laid out."""


class Command(BaseCommand):
    """Change fields of a tenant's quota."""

    help = (
        "Change fields of a tenant's quota, all of them or none. It takes effect with the next admission. "
        "An empty value (FIELD=) is unlimited, 0 is none."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the slug and the changes; list the fields below."""
        parser.formatter_class = _Formatter
        parser.add_argument("slug", metavar="SLUG", help="the tenant")
        parser.add_argument(
            "changes", metavar="FIELD=VALUE", nargs="+", help="a field and its new value, for example max_concurrent_sessions=25"
        )
        parser.epilog = "fields, with the default of a new tenant:\n" + "\n".join(_line(each) for each in services.quota_fields().values())

    def handle(self, *args: Any, **options: Any) -> None:
        """Change them and print the quota in force."""
        values: dict[str, str] = {}
        for change in options["changes"]:
            name, equals, value = change.partition("=")
            if not equals:
                raise CommandError(f"{change!r} is not FIELD=VALUE; the fields are {', '.join(services.quota_fields())}.")
            if name in values:
                raise CommandError(f"{name} is given twice.")
            values[name] = value
        try:
            quota = services.set_quota(slug=options["slug"], values=values)
        except TenantsError as error:
            raise CommandError(str(error)) from None
        for name in services.quota_fields():
            number = getattr(quota, name)
            self.stdout.write(f"{name}={'' if number is None else number}")


def _line(field: services.QuotaField) -> str:
    default = "" if field.default is None else field.default
    return f"  {field.name + '=' + str(default):<32} {field.help_text}"
