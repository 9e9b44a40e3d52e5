"""``manage.py verify_capacity``."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from sessions_app.selectors import verification
from sessions_app.selectors.verification import History


class Command(BaseCommand):
    """Compare what is counted with what is there, and with what happened."""

    help = (
        "Check that counters, slots, sessions and their events agree, in one snapshot; may run on a live platform. "
        "Exit code 0 when they do, 1 with a line for each thing that does not."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare what can be given."""
        parser.add_argument(
            "--history",
            action="store_true",
            help="Also replay every start and end of a session, in the order in which they were committed, against the limits in force"
            " at each: proves that no cap was ever exceeded, that who was let in above a tenant's limit is marked as a burst and was on a"
            " backend below its share, and that nobody took what others had reserved.",
        )

    def handle(self, *, history: bool = False, **_: Any) -> None:
        """Run."""
        if history:
            self._replay()
            return
        found = verification.discrepancies()
        for sentence in found:
            self.stdout.write(sentence)
        if found:
            sys.exit(1)
        self.stdout.write("Capacity is clean: counters, slots, sessions and events agree.")

    def _replay(self) -> None:
        history = verification.history()
        for sentence in history.findings:
            self.stdout.write(sentence)
        if history.found > len(history.findings):
            self.stdout.write(f"… and {history.found - len(history.findings)} more.")
        self.stdout.write(_summary(history))
        if history.found:
            sys.exit(1)
        self.stdout.write(
            "Capacity is clean: counters, slots, sessions and events agree. History is clean: it adds up, and no cap was ever exceeded."
        )


def _summary(history: History) -> str:
    said = (
        f"Replayed {history.events} events of {history.attempts} attempts, {history.admissions} of which were admitted,"
        f" and {history.limits} changes of limits"
    )
    if history.first_at is not None and history.last_at is not None:
        said += f", from {history.first_at:%Y-%m-%d %H:%M:%S} to {history.last_at:%Y-%m-%d %H:%M:%S} UTC"
    if history.horizon:
        said += f"; pruned up to sequence number {history.horizon}"
    return f"{said}."
