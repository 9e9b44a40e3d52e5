"""``manage.py verify_capacity``."""

import sys
from typing import Any

from django.core.management.base import BaseCommand

from sessions_app.selectors import verification


class Command(BaseCommand):
    """Compare what is counted with what is there."""

    help = (
        "Check that counters, slots, sessions and their events agree, in one snapshot; may run on a live platform. "
        "Exit code 0 when they do, 1 with a line for each thing that does not."
    )

    def handle(self, *_: Any, **__: Any) -> None:
        """Run."""
        found = verification.discrepancies()
        for sentence in found:
            self.stdout.write(sentence)
        if found:
            sys.exit(1)
        self.stdout.write("Capacity is clean: counters, slots, sessions and events agree.")
