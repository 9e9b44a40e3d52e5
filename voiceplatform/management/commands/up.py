"""``manage.py up``: the whole platform on one machine, see ``voiceplatform.local``."""

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from voiceplatform import local


class Command(BaseCommand):
    """Start everything here. ``manage.py`` itself runs it before Django's settings are read; this makes it known to ``help``."""

    help = "Start the whole platform on this machine: stores, migrations, demo content, web, worker, beat."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """As ``local`` reads them."""
        parser.add_argument(local.LIVEKIT_OPTION, action="store_true", help="start a livekit-server too")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run until a signal."""
        sys.exit(local.main([local.LIVEKIT_OPTION] if options["livekit"] else []))
