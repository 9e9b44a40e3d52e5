"""``manage.py explain_admission TENANT``."""

from argparse import ArgumentParser
from collections.abc import Iterable
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

from sessions_app.domain.admission import Limit
from sessions_app.domain.states import MEANINGS
from sessions_app.domain.world import Scope
from sessions_app.models.backends import TRANSPORTS
from sessions_app.selectors import explanation
from sessions_app.selectors.explanation import Explanation
from tenants.exceptions import TenantsError

_RATES: Final = {Scope.USER: "user_sessions_per_minute", Scope.TENANT: "sessions_per_minute"}


class Command(BaseCommand):
    """Say what would happen to an attempt now, and why."""

    help = (
        "Say what would happen to an attempt to start a session now, and why: admitted, queued or refused; every limit with its use; "
        "what is left of the rates; reservations, overrides and the queue; and each backend with the reason why it would be chosen or not. "
        "It decides by the same rules as an admission, on the database as it is at this moment, without locks, and changes nothing. "
        "What a server refuses by itself (it drains or has too much to do) is not known here. "
        "Exit code 0 whatever the answer is, 1 when there is no such tenant."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Whose attempt, and what it asks for."""
        parser.add_argument("tenant", metavar="TENANT", help="the tenant's slug")
        parser.add_argument(
            "--user", default="", metavar="USER", help="the tenant's own name for its user; left out: somebody who has no session yet"
        )
        parser.add_argument("--backend", default="", metavar="NAME", help="the backend that is asked for; left out: any")
        parser.add_argument("--pipeline", default="", metavar="NAME", help="the pipeline that is asked for; left out: any")
        parser.add_argument("--transport", default="websocket", choices=sorted(TRANSPORTS), help="websocket where left out")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run."""
        try:
            found = explanation.explain(
                slug=options["tenant"],
                user=options["user"],
                backend=options["backend"],
                pipeline=options["pipeline"],
                transport=options["transport"],
            )
        except TenantsError as error:
            raise CommandError(str(error)) from None
        parts = [verdict(found)]
        for title, lines in (
            ("Limits (in use before the attempt)", _limits(found)),
            ("New sessions a minute", _rates(found)),
            ("Reservations", _reservations(found)),
            ("Overrides in force", _overrides(found)),
            ("Queue", _queue(found)),
            ("Backends", _backends(found)),
        ):
            parts.append("\n".join([title, *(f"  {line}" for line in lines)]))
        self.stdout.write("\n\n".join(parts))


def verdict(found: Explanation) -> str:
    """Return the verdict in one sentence."""
    who = f"user {found.attempt.user} of {found.tenant.slug}" if found.attempt.user else found.tenant.slug
    given = found.verdict
    first = f", after {found.promoted} who wait" if found.promoted else ""
    if given.admitted:
        burst = ", above the tenant's limit (a burst)" if given.burst else ""
        return f"An attempt of {who} would be admitted on backend {found.backend}, pipeline {given.pipeline}{burst}{first}."
    reason = given.reason
    assert reason is not None
    if given.queued:
        return f"An attempt of {who} would wait{_place(found)} because of {reason}."
    retry = f" It would be told to come back in {given.retry_after_s} s." if given.retry_after_s is not None else ""
    rate = f" ({_RATES[given.rate]})" if given.rate else ""
    return f"An attempt of {who} would be refused with {reason}{rate}: {MEANINGS[reason].message}{retry}"


def _place(found: Explanation) -> str:
    if found.standing is None:
        return ""
    wait = found.standing.estimated_wait_s
    expected = "nobody can say how long" if wait is None else f"expected wait {wait:.0f} s"
    return f" at place {found.standing.position} ({expected})"


def _limits(found: Explanation) -> Iterable[str]:
    backend = f"backend {found.backend}" if found.backend else "backend"
    names = {Scope.USER: "user", Scope.TENANT: "tenant", Scope.BACKEND: backend, Scope.PLATFORM: "platform"}
    for each in found.verdict.limits:
        yield f"{names[each.scope]:<24} {each.used} of {_limit(each)}{'  (full)' if each.full else ''}"


def _limit(limit: Limit) -> str:
    if limit.limit is None:
        return "any number"
    return (
        f"{limit.limit}"
        + (f" and {limit.burst} more in a burst" if limit.burst else "")
        + (f", {limit.reserved} kept for others" if limit.reserved else "")
    )


def _rates(found: Explanation) -> Iterable[str]:
    for each in found.rates:
        left = "unlimited" if each.tokens is None else f"{max(0.0, each.tokens):.1f} of {each.per_minute} left"
        yield f"{each.scope:<24} {left}"


def _reservations(found: Explanation) -> Iterable[str]:
    for each in found.reserved:
        own = f"{each.own} for this tenant ({each.own_unused} unused), " if each.own else ""
        yield f"{each.backend:<24} {own}{each.for_others} kept for others"
    if not found.reserved:
        yield "none"


def _overrides(found: Explanation) -> Iterable[str]:
    changed = [each for each in found.limits.values() if each.overrides]
    for limit in changed:
        yield f"{limit.field:<24} {limit}"
        yield from (
            f"{'':<24} {each.change:+d}: {each.note}{f', by {each.created_by}' if each.created_by else ''}" for each in limit.overrides
        )
    if not changed:
        yield "none"


def _queue(found: Explanation) -> Iterable[str]:
    if found.max_queue_length == 0:
        yield f"none allowed by the quota{f', though {found.queued} wait' if found.queued else ''}"
        return
    most = "any number" if found.max_queue_length is None else found.max_queue_length
    longest = "as long as they like" if found.max_queue_wait_s is None else f"{found.max_queue_wait_s} s at most"
    yield f"{found.queued} of {most} wait, {longest}"


def _backends(found: Explanation) -> Iterable[str]:
    for each in found.backends:
        yield f"{each.name:<24} {'chosen' if each.chosen else 'not chosen'}: {each.why}"
    if not found.backends:
        yield "there is none"
