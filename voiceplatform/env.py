"""Typed readers of the process environment, and the only user of ``os.environ``.

Owns: names, types and the sentence that a wrong value is answered with.
Refuses: defaults for secrets; a value of the wrong type (``ConfigurationError``, never a silent fallback).
"""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured


class ConfigurationError(ImproperlyConfigured):
    """A setting from the environment is missing or has a wrong value."""


def text(name: str, default: str = "") -> str:
    """Return the variable, or ``default`` where it is unset or empty."""
    return os.environ.get(name, "") or default


def flag(name: str, default: bool = False) -> bool:
    """Return a boolean: 1/true/yes/on or 0/false/no/off, in any case.

    Raises:
        ConfigurationError: any other value.
    """
    value = os.environ.get(name, "").strip().lower()
    if not value:
        return default
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise ConfigurationError(f"{name} must be 1 or 0, not {value!r}.")


def integer(name: str, default: int, *, minimum: int, maximum: int) -> int:
    """Return a whole number within ``minimum`` and ``maximum``, both included.

    Raises:
        ConfigurationError: not a whole number, or outside the range.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    try:
        number = int(value)
    except ValueError:
        raise ConfigurationError(f"{name} must be a whole number, not {value!r}.") from None
    if not minimum <= number <= maximum:
        raise ConfigurationError(f"{name} must be between {minimum} and {maximum}, not {number}.")
    return number


def choice(name: str, options: tuple[str, ...]) -> str:
    """Return one of ``options``, the first where the variable is unset or empty.

    Raises:
        ConfigurationError: any other value.
    """
    value = os.environ.get(name, "").strip() or options[0]
    if value not in options:
        raise ConfigurationError(f"{name} must be {' or '.join(options)}, not {value!r}.")
    return value


def words(name: str, default: tuple[str, ...] = ()) -> list[str]:
    """Return a comma-separated list without empty items."""
    value = os.environ.get(name, "")
    return [item.strip() for item in value.split(",") if item.strip()] or list(default)


def folder(name: str, default: Path) -> Path:
    """Return an absolute path; ``~`` is expanded, a relative one is taken from the working directory."""
    value = os.environ.get(name, "").strip()
    return Path(value).expanduser().absolute() if value else default
