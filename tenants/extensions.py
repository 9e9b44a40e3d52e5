"""What other apps add to tenants, so that this package need not know them. They register in their ``AppConfig.ready``.

Owns: panels on a tenant's admin page, validators of a quota about to be written, and the sentence of a trigger that refused one.
Refuses: order between registrants, and catching what they raise: a broken panel is a bug of its owner, not something to hide.
To hear of changes, connect to ``post_save`` of ``Tenant`` and ``Quota``: services, commands and admin all send it, raw SQL does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import psycopg
from django.db import DatabaseError
from django.utils.safestring import SafeString

if TYPE_CHECKING:
    from tenants.models import Quota, Tenant

QuotaValidator = Callable[["Quota"], None]

REFUSED_STATE: Final = "VP003"  # a trigger raises it with a sentence for whoever edits


@dataclass(frozen=True)
class Panel:
    """A titled piece of HTML on the admin page of a saved tenant, above its quota, or below all that is edited there."""

    title: str
    render: Callable[["Tenant"], SafeString]
    below: bool = False


_panels: dict[str, Panel] = {}
_quota_validators: list[QuotaValidator] = []


def register_panel(title: str, render: Callable[["Tenant"], SafeString], *, below: bool = False) -> None:
    """Show ``render(tenant)`` on every tenant's admin page; the same title again replaces the panel."""
    _panels[title] = Panel(title, render, below)


def unregister_panel(title: str) -> None:
    """Take a panel away; one that is not there is no error."""
    _panels.pop(title, None)


def register_quota_validator(validate: QuotaValidator) -> None:
    """Call ``validate(quota)`` before a quota is written, inside the transaction that writes it.

    ``quota`` holds the new values; ``quota.tenant`` has no ``pk`` yet when the admin adds a tenant. To refuse, raise Django's
    ``ValidationError`` with a sentence: admin shows it in the form, services raise it as ``InvalidQuota``.
    """
    if validate not in _quota_validators:
        _quota_validators.append(validate)


def unregister_quota_validator(validate: QuotaValidator) -> None:
    """Take a validator away; one that is not there is no error."""
    if validate in _quota_validators:
        _quota_validators.remove(validate)


def panels() -> list[Panel]:
    """Return the panels in the order of their registration."""
    return list(_panels.values())


def validate_quota(quota: "Quota") -> None:
    """Ask every validator.

    Raises:
        django.core.exceptions.ValidationError: one of them refused.
    """
    for validate in _quota_validators:
        validate(quota)


def refusal(error: DatabaseError) -> str | None:
    """Return the sentence with which a trigger refused a write (SQLSTATE ``REFUSED_STATE``); None for every other error.

    Validators say the same before the write; the trigger is there for what comes between, and for those who write past them.
    """
    cause = error.__cause__
    return cause.diag.message_primary if isinstance(cause, psycopg.Error) and cause.sqlstate == REFUSED_STATE else None
