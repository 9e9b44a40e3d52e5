"""``manage.py set_quota``: a door to ``tenants.services.set_quota``."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter

from tenants import services
from tenants.exceptions import TenantsError
from tenants.management import edits
from tenants.models import Quota


class _Formatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's order of options, and the list of fields as it was laid out."""


class Command(BaseCommand):
    """Change fields of a tenant's quota."""

    help = (
        "Change fields of a tenant's quota, all of them or none. It takes effect with the next admission. "
        "An empty value (FIELD=) is unlimited, 0 is none. Who did it is recorded, and why with --reason."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the slug and the changes; list the fields below."""
        parser.formatter_class = _Formatter
        parser.add_argument("slug", metavar="SLUG", help="the tenant")
        parser.add_argument(
            "changes", metavar="FIELD=VALUE", nargs="+", help="a field and its new value, for example max_concurrent_sessions=25"
        )
        edits.add_reason(parser)
        texts = [_line(name, "", str(Quota._meta.get_field(name).help_text)) for name in services.QUOTA_TEXTS]
        numbers = [_line(each.name, each.default, each.help_text) for each in services.quota_fields().values()]
        parser.epilog = "fields, with the default of a new tenant:\n" + "\n".join([*numbers, *texts])

    def handle(self, *args: Any, **options: Any) -> None:
        """Change them and print the quota in force."""
        values: dict[str, str] = {}
        for change in options["changes"]:
            name, equals, value = change.partition("=")
            if not equals:
                raise CommandError(f"{change!r} is not FIELD=VALUE; the fields are {', '.join(_names())}.")
            if name in values:
                raise CommandError(f"{name} is given twice.")
            values[name] = value
        try:
            quota = services.set_quota(slug=options["slug"], values=values, actor=edits.actor(), note=edits.reason(options))
        except TenantsError as error:
            raise CommandError(str(error)) from None
        for name in _names():
            value = getattr(quota, name)
            self.stdout.write(f"{name}={'' if value is None else value}")


def _names() -> list[str]:
    return [*services.quota_fields(), *services.QUOTA_TEXTS]


def _line(name: str, default: int | str | None, help_text: str) -> str:
    return f"  {name + '=' + ('' if default is None else str(default)):<32} {help_text}"
