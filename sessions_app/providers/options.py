"""Reads a backend's options, with a sentence for each thing that is wrong.

Owns: types, ranges and unknown names. Refuses: strings where numbers are meant, and values in sentences that might be secret (numbers
only are shown).
"""

import re
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

from sessions_app.providers.exceptions import InvalidConfig

_LONGEST_TEXT: Final = 500  # characters
_HOST_AND_PORT: Final = re.compile(r"[A-Za-z0-9._:\[\]-]+")  # it is told to browsers in headers, too

_TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a fraction",
    str: "text",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def _told(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _TYPE_NAMES.get(type(value), type(value).__name__)


class OptionReader:
    """Reads options one by one; ``finish`` refuses those that nobody read."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self._options = options
        self._known: list[str] = []

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        """Return a whole number within ``minimum`` and ``maximum``, both included.

        Raises:
            InvalidConfig: It is something else.
        """
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
            raise InvalidConfig(f"option {name!r} must be a whole number from {minimum} to {maximum}, not {_told(value)}.")
        return value

    def optional_integer(self, name: str, *, minimum: int, maximum: int) -> int | None:
        """Return as ``integer`` does, or None where the option is unset or null.

        Raises:
            InvalidConfig: It is something else.
        """
        if self._take(name, None) is None:
            return None
        return self.integer(name, minimum, minimum=minimum, maximum=maximum)

    def choice(self, name: str, default: int, allowed: Collection[int]) -> int:
        """Return one of the allowed numbers.

        Raises:
            InvalidConfig: It is something else.
        """
        value = self._take(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value not in allowed:
            raise InvalidConfig(f"option {name!r} must be {' or '.join(str(number) for number in allowed)}, not {_told(value)}.")
        return value

    def word(self, name: str, allowed: tuple[str, ...]) -> str:
        """Return one of the allowed words, the first one where the option is unset.

        Raises:
            InvalidConfig: It is something else.
        """
        value = self._take(name, allowed[0])
        if not isinstance(value, str) or value not in allowed:
            raise InvalidConfig(f"option {name!r} must be {' or '.join(repr(each) for each in allowed)}.")
        return value

    def text(self, name: str) -> str:
        """Return a line of text, empty where the option is unset.

        Raises:
            InvalidConfig: It is something else, or too long.
        """
        value = self._take(name, "")
        if not isinstance(value, str):
            raise InvalidConfig(f"option {name!r} must be text, not {_told(value)}.")
        if len(value) > _LONGEST_TEXT or not value.isprintable():
            raise InvalidConfig(f"option {name!r} must be one line of at most {_LONGEST_TEXT} characters.")
        return value

    def address(self, name: str, schemes: tuple[str, ...], *, required: bool = False) -> str:
        """Return an address without a slash at its end, empty where the option is unset.

        Raises:
            InvalidConfig: It is missing, of another scheme, without a host, or has a user, a password or a query.
        """
        value = self.text(name).strip().rstrip("/")
        if not value and not required:
            return ""
        try:
            parts = urlsplit(value)
            good = parts.scheme in schemes and bool(_HOST_AND_PORT.fullmatch(parts.netloc)) and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or "@" in value or "?" in value or "#" in value:
            kinds = " or ".join(f"{scheme}://" for scheme in schemes)
            raise InvalidConfig(f"option {name!r} must be an address that begins with {kinds}, of a host, a port and a path only.")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return true or false.

        Raises:
            InvalidConfig: It is something else.
        """
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise InvalidConfig(f"option {name!r} must be true or false, not {_told(value)}.")
        return value

    def flag_or_count(self, name: str) -> bool | int:
        """Return true or false, or how often it is true before it is false; false where unset.

        Raises:
            InvalidConfig: It is something else.
        """
        value = self._take(name, False)
        if not isinstance(value, int) or value < 0:
            raise InvalidConfig(f"option {name!r} must be true, false or a whole number of times, not {_told(value)}.")
        return value

    def finish(self) -> None:
        """Refuse what was not read.

        Raises:
            InvalidConfig: There are options that this provider does not have.
        """
        unknown = sorted(set(self._options) - set(self._known))
        if unknown:
            names = ", ".join(repr(name) for name in unknown)
            raise InvalidConfig(f"unknown option {names}; there are {', '.join(sorted(self._known))}.")

    def _take(self, name: str, default: object) -> object:
        if name not in self._known:
            self._known.append(name)
        return self._options.get(name, default)
