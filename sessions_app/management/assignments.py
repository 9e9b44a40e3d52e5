"""Reads ``FIELD=VALUE`` words of a command line."""

from collections.abc import Iterable

from django.core.management.base import CommandError


def assignments(words: Iterable[str]) -> dict[str, str]:
    """Return the assignments by field.

    Raises:
        CommandError: a word without ``=``.
    """
    pairs = [word.partition("=") for word in words]
    for name, sign, _ in pairs:
        if not sign:
            raise CommandError(f"Write FIELD=VALUE, not {name!r}.")
    return {name: value for name, _, value in pairs}
