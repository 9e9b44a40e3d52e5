"""What commands that edit limits have in common: ``--reason``, and who is at the keyboard; both are kept in the record of changes."""

import os
import pwd
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError

from tenants.services import MAX_NOTE_CHARS


def add_reason(parser: ArgumentParser, *, required: bool = False, longest: int = MAX_NOTE_CHARS) -> None:
    """Take ``--reason TEXT``."""
    kept = f"why, kept in the record of changes (at most {longest} characters)"
    parser.add_argument("--reason", default="", metavar="TEXT", required=required, help=kept)


def reason(options: Mapping[str, Any], *, longest: int = MAX_NOTE_CHARS) -> str:
    """Return what was given as the reason, as text that can be kept.

    Raises:
        CommandError: it is too long.
    """
    # A command line may hold bytes that are no text.
    text: str = (options.get("reason") or "").strip().encode(errors="replace").decode()
    if len(text) > longest:
        raise CommandError(f"The reason has {len(text)} characters; at most {longest} are kept.")
    return text


def actor() -> str:
    """Return the operating system's user as records will name them; the environment could say anything."""
    try:
        return f"command:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"command:uid {os.getuid()}"
