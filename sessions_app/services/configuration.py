"""Edits of backends and of the platform, for commands and the first start. Limits act on the next batch of the ledger."""

import json
from collections.abc import Mapping
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import models, transaction

from sessions_app.models import Backend, Platform

_JSON_FIELDS: Final = frozenset({"options", "pipelines", "transports", "secrets"})
BACKEND_FIELDS: Final = ("provider", "cap", "weight", "enabled", "draining", "burst_below", "options", "secrets", "pipelines", "transports")
PLATFORM_FIELDS: Final = ("max_concurrent_sessions",)
_WORDS: Final = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@transaction.atomic
def set_backend(*, name: str, values: Mapping[str, str]) -> tuple[Backend, bool]:
    """Change the named backend, or make it; return it, and whether it was made.

    Raises:
        ValidationError: an unknown field, a wrong value, or a new backend without a provider.
    """
    # no_key: a session's insert must not wait for this row while its transaction holds the lock that this edit will want.
    backend = Backend.objects.select_for_update(no_key=True).filter(name=name).first()
    made = backend is None
    if backend is None:
        backend = Backend(name=name)
    _assign(backend, values, BACKEND_FIELDS)
    backend.full_clean()
    backend.save()
    return backend, made


@transaction.atomic
def set_platform(*, values: Mapping[str, str]) -> Platform:
    """Change the platform's limits.

    Raises:
        ValidationError: an unknown field or a wrong value.
    """
    platform = Platform.objects.select_for_update(no_key=True).get()
    _assign(platform, values, PLATFORM_FIELDS)
    platform.full_clean()
    platform.save()
    return platform


def _assign(row: Backend | Platform, values: Mapping[str, str], fields: tuple[str, ...]) -> None:
    for name, value in values.items():
        if name not in fields:
            raise ValidationError(f"There is no field {name!r}. Fields: {', '.join(fields)}.")
        setattr(row, name, _parsed(row, name, value))


def _parsed(row: Backend | Platform, name: str, value: str) -> Any:
    if name in _JSON_FIELDS:
        try:
            return json.loads(value)
        except ValueError:
            raise ValidationError(f"{name} must be JSON.") from None
    if isinstance(getattr(row, name), bool):
        if value.lower() not in _WORDS:
            raise ValidationError(f"{name} must be true or false, not {value!r}.")
        return _WORDS[value.lower()]
    if not value:
        return None
    try:
        field: models.Field[Any, Any] = row.__class__._meta.get_field(name)  # type: ignore[assignment]  # no relation is among the names
        return field.to_python(value)
    except ValidationError as error:
        raise ValidationError(f"{name}: {'; '.join(error.messages)}") from None
