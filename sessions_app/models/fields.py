"""A field for secrets: a mapping of names to values, encrypted at rest with ``VOICE_SECRET_KEYS``.

The first key encrypts, all decrypt. A value that no key opens reads as ``Undecipherable``: the backend becomes unhealthy with
that sentence, and pages that do not need the secret go on working.
"""

import json
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import models

if TYPE_CHECKING:
    TextField = models.TextField[Any, Any]
else:
    TextField = models.TextField


class Undecipherable(dict[str, str]):
    """Secrets that none of the keys opens: empty, and told apart from secrets that were never set."""

    sentence = "The secrets of this backend cannot be read with VOICE_SECRET_KEYS: put the key back that encrypted them, or set them again."

    def __init__(self, stored: str = "") -> None:
        super().__init__()
        self.stored = stored


def _keys() -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in settings.VOICE_SECRET_KEYS])
    except ValueError:
        raise ImproperlyConfigured(
            "VOICE_SECRET_KEYS must hold Fernet keys: 32 random bytes in URL-safe base64, comma-separated."
        ) from None


class EncryptedField(TextField):
    """``dict[str, str]`` in Python, one Fernet token in the database; empty stays empty. Cannot be searched."""

    if TYPE_CHECKING:
        _pyi_private_set_type: Any
        _pyi_private_get_type: Any

    def from_db_value(self, value: str | None, *_: Any) -> dict[str, str]:
        """Decrypt."""
        if not value:
            return {}
        try:
            return dict(json.loads(_keys().decrypt(value.encode())))
        except InvalidToken:
            return Undecipherable(value)

    def to_python(self, value: Any) -> dict[str, str]:
        """Accept a mapping or its JSON.

        Raises:
            ValidationError: anything else; what was given is not repeated.
        """
        if isinstance(value, Undecipherable):
            return value
        try:
            secrets = json.loads(value) if isinstance(value, str) and value else value or {}
        except ValueError:
            secrets = None
        if not isinstance(secrets, dict) or not all(isinstance(each, str) for pair in secrets.items() for each in pair):
            raise ValidationError("Secrets must be a JSON object of texts.")
        return secrets

    def get_prep_value(self, value: Any) -> str:
        """Encrypt; what could not be read is kept as it was."""
        if isinstance(value, Undecipherable):
            return value.stored
        return _keys().encrypt(json.dumps(value).encode()).decode() if value else ""

    def value_to_string(self, obj: models.Model) -> str:
        """Never serialise a secret (``dumpdata`` and the like)."""
        return ""
