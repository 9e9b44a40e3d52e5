#!/usr/bin/env python
"""Django's command line for voiceplatform: `manage.py help` lists the commands."""

import os
import sys


def main() -> None:
    """Run one management command; a wrong configuration or a store that is away is a sentence and exit code 2, not a traceback."""
    if sys.argv[1:2] == ["up"] or sys.argv[1:3] == ["help", "up"]:
        # Before Django: the settings need secrets and addresses that this makes.
        from voiceplatform import local

        sys.exit(local.main(sys.argv[2:] if sys.argv[1] == "up" else ["--help"]))

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "voiceplatform.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import OperationalError

    try:
        execute_from_command_line(sys.argv)
    except OperationalError as error:
        reason = str(error).strip().splitlines()[0]
        sys.stderr.write(f"voiceplatform: the database cannot be used: {reason}\n")
        sys.stderr.write("Is `make run` running with this VOICE_DATA_DIR, or DATABASE_URL right?\n")
        sys.exit(2)
    except ImproperlyConfigured as error:
        sys.stderr.write(f"voiceplatform: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
