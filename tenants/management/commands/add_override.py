"""``manage.py add_override``: a door to ``tenants.services.add_override``."""

import argparse
import re
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter

from tenants import selectors, services
from tenants.exceptions import TenantsError
from tenants.management import edits
from tenants.models import OVERRIDABLE, Override


class _Formatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Django's order of options, and the examples as they were laid out."""


class Command(BaseCommand):
    """Change a limit for a time."""

    help = (
        "Change one limit of a tenant for a time. The change is added to what the quota says, and reverts by itself at its end. "
        "It takes effect with the next admission after its beginning. Take it back before its end on the tenant's page in the admin."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the slug, the change and its time; list the fields below."""
        parser.formatter_class = _Formatter
        parser.add_argument("slug", metavar="SLUG", help="the tenant")
        parser.add_argument("change", metavar="FIELD=CHANGE", help="a field and what is added to it: +20 is twenty more, -5 five fewer")
        parser.add_argument("--until", required=True, metavar="TIME", help="its end, as 2026-11-27T18:00; UTC where it names no zone")
        parser.add_argument("--from", dest="since", metavar="TIME", help="its beginning, written likewise; now where left out")
        edits.add_reason(parser, required=True, longest=_longest_note())
        parser.epilog = (
            f"fields: {', '.join(OVERRIDABLE)}\n\nexample:\n"
            "  manage.py add_override acme max_concurrent_sessions=+20 --until 2026-11-27T18:00 --reason campaign"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Add it, and print the limit in force."""
        field, change = _change(options["change"])
        try:
            override = services.add_override(
                slug=options["slug"],
                field=field,
                change=change,
                starts_at=_time(options["since"]) if options["since"] else None,
                ends_at=_time(options["until"]),
                note=edits.reason(options, longest=_longest_note()),
                actor=edits.actor(),
            )
        except TenantsError as error:
            raise CommandError(str(error)) from None
        limit = selectors.limits_in_force(selectors.tenant_by_slug(options["slug"]).quota)[field]
        self.stdout.write(
            f"{override.change:+d} {field} for {options['slug']} from {override.starts_at:%Y-%m-%d %H:%M} to"
            f" {override.ends_at:%Y-%m-%d %H:%M} UTC. In force now: {limit}."
        )


def _longest_note() -> int:
    longest: int | None = Override._meta.get_field("note").max_length
    assert longest is not None
    return longest


def _change(word: str) -> tuple[str, int]:
    field, equals, number = word.partition("=")
    if not equals or field not in OVERRIDABLE or not re.fullmatch(r"[+-]?[0-9]{1,9}", number.strip()):
        raise CommandError(f"{word!r} is not FIELD=CHANGE, as max_concurrent_sessions=+20; the fields are {', '.join(OVERRIDABLE)}.")
    return field, int(number)


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise CommandError(f"{text!r} is no time: write it as 2026-11-27T18:00, in UTC or with its zone.") from None
