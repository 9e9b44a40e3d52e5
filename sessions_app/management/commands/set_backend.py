"""``manage.py set_backend NAME FIELD=VALUE …``."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from sessions_app.management.assignments import assignments
from sessions_app.services import configuration
from tenants.management import edits


class Command(BaseCommand):
    """Change a backend, or make one."""

    help = (
        "Change a voice backend, or make it where there is none of this name (then provider=… is needed). "
        "Takes effect on the next attempt; who did it is recorded, and why with --reason. "
        f"Fields: {', '.join(configuration.BACKEND_FIELDS)}. An empty cap is unlimited, 0 is none."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Name and assignments."""
        parser.add_argument("name")
        parser.add_argument("values", nargs="*", metavar="FIELD=VALUE")
        edits.add_reason(parser)

    def handle(self, *_: Any, **options: Any) -> None:
        """Run."""
        who = {"actor": edits.actor(), "note": edits.reason(options)}
        try:
            backend, made = configuration.set_backend(name=options["name"], values=assignments(options["values"]), **who)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        cap = "unlimited" if backend.cap is None else backend.cap
        self.stdout.write(f"{'Made' if made else 'Changed'} backend {backend.name} (provider {backend.provider}, cap {cap}).")
