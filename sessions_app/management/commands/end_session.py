"""``manage.py end_session ID [--reason TEXT] [--no-wait]``."""

import time
from argparse import ArgumentParser, BooleanOptionalAction
from typing import Any, Final
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from sessions_app.selectors import history, timeline
from sessions_app.services import ending
from sessions_app.services.ending import Outcome
from tenants.management import edits

WAIT_S: Final = 10.0
_LOOK_S: Final = 0.1


class Command(BaseCommand):
    """Ask for a session's end and see it through."""

    help = (
        "End a session, on whichever node it is: its client is told that an operator ended it, and its slot is free again. "
        "The node that carries it looks once a second, without the channel layer. "
        f"Waits until it has ended, at most {WAIT_S:g} s, and says how. "
        "Exit code 0 when it has ended or was over already, 1 when there is no such session or it has not ended in time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Which one, why, and whether to wait."""
        parser.add_argument("session", metavar="ID", help="the session's id, a UUID")
        parser.add_argument(
            "--reason", default="", metavar="TEXT", help=f"why, for its history (at most {ending.MAX_DETAIL_CHARS} characters)"
        )
        parser.add_argument("--wait", default=True, action=BooleanOptionalAction, help="wait for the end, which is the default")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run."""
        session_id = _session_id(options["session"])
        reason = edits.reason(options, longest=ending.MAX_DETAIL_CHARS)
        outcome = ending.request_end(session_id=session_id, actor=edits.actor(), detail=reason)
        if outcome is Outcome.UNKNOWN:
            raise CommandError(f"There is no session {session_id}.")
        if outcome is Outcome.OVER:
            self.stdout.write(f"Session {session_id} was over already: {_how_it_ended(session_id)}.")
        elif not options["wait"]:
            already = " already" if outcome is Outcome.ASKED_ALREADY else ""
            self.stdout.write(f"Session {session_id} has{already} been asked to end.")
        elif _ended_in_time(session_id):
            self.stdout.write(f"Session {session_id} has ended: {_how_it_ended(session_id)}.")
        else:
            raise CommandError(
                f"Session {session_id} was asked to end and has not within {WAIT_S:g} s; the request stays, and is carried out"
                " by its node or by the sweep. See /ops/health/."
            )


def _session_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise CommandError(f"{text!r} is no session id: that is a UUID, as the history shows it.") from None


def _ended_in_time(session_id: UUID) -> bool:
    give_up = time.monotonic() + WAIT_S
    while not history.is_over(session_id):
        if time.monotonic() > give_up:
            return False
        time.sleep(_LOOK_S)
    return True


def _how_it_ended(session_id: UUID) -> str:
    session = history.session(session_id)
    if session is None:
        return "its record has been pruned meanwhile"
    actor = timeline.ended_by(session)
    return f"{session.reason}{f' by {actor}' if actor else ''}"
