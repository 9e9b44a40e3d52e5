"""``manage.py set_platform max_concurrent_sessions=N``."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from sessions_app.management.assignments import assignments
from sessions_app.services import configuration
from tenants.management import edits


class Command(BaseCommand):
    """Change what holds for all tenants and backends together."""

    help = (
        "Set the limits of the whole platform. max_concurrent_sessions: empty is unlimited, 0 is none. "
        "Takes effect on the next attempt; who did it is recorded, and why with --reason."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Assignments."""
        parser.add_argument("values", nargs="+", metavar="FIELD=VALUE")
        edits.add_reason(parser)

    def handle(self, *_: Any, **options: Any) -> None:
        """Run."""
        who = {"actor": edits.actor(), "note": edits.reason(options)}
        try:
            platform = configuration.set_platform(values=assignments(options["values"]), **who)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        limit = platform.max_concurrent_sessions
        self.stdout.write(f"The platform takes {'any number of' if limit is None else limit} sessions at once.")
