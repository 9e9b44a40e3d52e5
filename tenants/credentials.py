"""API keys: ``vk_<prefix>_<secret>``. The prefix finds the row and may be shown; of the secret only a hash of the whole key is kept.

Plain SHA-256 is enough, and fast: the secret has 256 random bits, so there is no dictionary to try as there is for passwords.
Refuses: the database, and any form of a key but its own.
"""

import hashlib
import hmac
import re
import secrets
from typing import Final, NamedTuple

PREFIX_PATTERN: Final = r"[0-9a-f]{12}"
_KEY: Final = re.compile(rf"vk_({PREFIX_PATTERN})_[A-Za-z0-9_-]{{43}}")


class Credential(NamedTuple):
    """A new key: the text to show once, and the two things to keep."""

    plaintext: str
    prefix: str
    hash: str


def generate() -> Credential:
    """Make a new key from the system's random source."""
    prefix = secrets.token_hex(6)
    plaintext = f"vk_{prefix}_{secrets.token_urlsafe(32)}"
    return Credential(plaintext, prefix, digest(plaintext))


def digest(plaintext: str) -> str:
    """Return the hash to keep: SHA-256 of the whole key, in lower-case hexadecimal."""
    return hashlib.sha256(plaintext.encode()).hexdigest()


def prefix_of(plaintext: str) -> str | None:
    """Return the prefix of a well-formed key, None for any other text."""
    match = _KEY.fullmatch(plaintext)
    return match[1] if match else None


def matches(plaintext: str, kept: str) -> bool:
    """Whether the key is the one whose hash was kept; takes the same time wherever the two differ."""
    return hmac.compare_digest(digest(plaintext), kept)
