"""Writes about tenants, each one transaction: create, suspend, set the quota, add members, issue, revoke and check API keys.

Every change of a tenant or a quota goes through ``save``, so that ``post_save`` tells other apps. No network, no knowledge of sessions.
Rows are locked without their keys (``no_key``): rows that refer to the tenant can be inserted meanwhile, so that no writer of those
waits for an edit, which other apps' triggers may make wait for that writer. Who edits locks the tenant's row first, then the quota's.
Who edits and why is told to the transaction (``name_editor``), where other apps' triggers find it for their records.
Refuses: half of a change; a key in a log or an error.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from django.contrib.auth.models import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import DatabaseError, IntegrityError, connection, models, transaction
from django.db.transaction import TransactionManagementError
from django.utils import timezone

from tenants import credentials, extensions
from tenants.exceptions import InvalidApiKey, InvalidOverride, InvalidQuota, InvalidTenant, TenantExists, TenantNotFound
from tenants.models import ApiKey, Membership, Override, Quota, Tenant

# A busy key would otherwise write its row with every request.
LAST_USED_PRECISION: Final = timedelta(minutes=1)
MAX_ACTOR_CHARS: Final = 150
MAX_NOTE_CHARS: Final = 300
QUOTA_TEXTS: Final = ("reserved_backend",)  # fields of a quota that are no numbers


class QuotaField(NamedTuple):
    """What a quota field takes: whole numbers from ``minimum`` to ``maximum``, and nothing (unlimited) where ``nullable``."""

    name: str
    minimum: int
    maximum: int
    nullable: bool
    default: int | None
    help_text: str


def quota_fields() -> dict[str, QuotaField]:
    """Return the numbers that may be set, by name, in the order of the model; ``QUOTA_TEXTS`` may be set, too."""
    fields = [each for each in Quota._meta.concrete_fields if isinstance(each, models.PositiveIntegerField)]
    return {each.name: _describe(each) for each in fields}


def name_editor(*, actor: str, note: str = "") -> None:
    """Tell the database who edits limits in this transaction, and why: the settings ``voice.actor`` and ``voice.note``.

    It holds until the next call or the transaction's end. Every door to an edit calls it, with nothing where it knows nobody, so that no
    edit is put down to the one before it. Longer texts are cut at ``MAX_ACTOR_CHARS`` and ``MAX_NOTE_CHARS``.

    Raises:
        TransactionManagementError: there is no transaction, so that it would be forgotten at once.
    """
    if not connection.in_atomic_block:
        raise TransactionManagementError("Who edits is told to a transaction.")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('voice.actor', %s, true), set_config('voice.note', %s, true)",
            [actor[:MAX_ACTOR_CHARS], note[:MAX_NOTE_CHARS]],
        )


def lock_quota(*, tenant_id: int) -> None:
    """Lock a tenant's row and then its quota's to the end of the transaction; the order is the same for everybody who edits either."""
    for rows in (Tenant.objects.filter(pk=tenant_id), Quota.objects.filter(tenant_id=tenant_id)):
        list(rows.select_for_update(no_key=True).values_list("pk"))


@transaction.atomic
def create_tenant(*, slug: str, name: str = "", actor: str = "", note: str = "") -> Tenant:
    """Create an active tenant with the default quota; without a name it is called like its slug.

    Args:
        actor: Who does it, for the record of changes.
        note: Why.

    Raises:
        TenantExists: the slug is taken.
        InvalidTenant: slug or name is not allowed; the message is one sentence.
    """
    if Tenant.objects.filter(slug=slug).exists():
        raise TenantExists(_taken(slug))
    name_editor(actor=actor, note=note)
    tenant = Tenant(slug=slug, name=name.strip() or slug)
    try:
        tenant.full_clean()
        with transaction.atomic():
            tenant.save(force_insert=True)
    except ValidationError as error:
        raise InvalidTenant(_sentence(error)) from None
    except IntegrityError:
        # Two callers passed the check above; this one came second.
        raise TenantExists(_taken(slug)) from None
    Quota.objects.create(tenant=tenant)
    return tenant


@transaction.atomic
def set_status(*, tenant: Tenant, status: Tenant.Status, actor: str = "", note: str = "") -> bool:
    """Suspend or activate; a suspended tenant starts no new sessions. ``actor`` and ``note`` say who does it and why.

    Returns:
        True if this call changed it, False if it was so already or the tenant is gone.
    """
    current = Tenant.objects.select_for_update(no_key=True).filter(pk=tenant.pk).exclude(status=status).first()
    if current is None:
        return False
    name_editor(actor=actor, note=note)
    current.status = status
    current.save(update_fields=["status"])
    return True


@transaction.atomic
def set_quota(*, slug: str, values: Mapping[str, str], actor: str = "", note: str = "") -> Quota:
    """Change quota fields, given as text: a whole number, or nothing for unlimited. All of them or none.

    Args:
        actor: Who does it, for the record of changes.
        note: Why.

    Raises:
        TenantNotFound: no tenant has this slug.
        InvalidQuota: an unknown field, a value that is not allowed, or one that another app refuses; the message is one sentence.
    """
    changes = {name: _parse(name, value) for name, value in values.items()}
    # The rows are locked so that two commands cannot each write the other's old values past a validator.
    lock_quota(tenant_id=_tenant_id(slug))
    quota = Quota.objects.select_related("tenant").filter(tenant__slug=slug).first()
    if quota is None:
        raise TenantNotFound(_unknown(slug))
    name_editor(actor=actor, note=note)
    for name, value in changes.items():
        setattr(quota, name, value)
    try:
        quota.full_clean()
        if changes:
            with transaction.atomic():
                quota.save(update_fields=list(changes))
    except ValidationError as error:
        raise InvalidQuota(_sentence(error)) from None
    except DatabaseError as error:
        if sentence := extensions.refusal(error):
            raise InvalidQuota(sentence) from None
        raise
    return quota


@transaction.atomic
def add_override(
    *, slug: str, field: str, change: int, ends_at: datetime, note: str, starts_at: datetime | None = None, actor: str = ""
) -> Override:
    """Change one limit for a time; it reverts by itself.

    Args:
        field: One of ``tenants.models.OVERRIDABLE``.
        change: Is added to the quota's figure.
        ends_at: Aware.
        note: Why; also for the record of changes.
        starts_at: Aware; now where left out.
        actor: Who does it.

    Raises:
        TenantNotFound: no tenant has this slug.
        InvalidOverride: something is not allowed; the message is one sentence.
    """
    tenant_id, now = _tenant_id(slug), timezone.now()
    override = Override(tenant_id=tenant_id, field=field, change=change, ends_at=ends_at, note=note.strip(), created_by=actor[:150])
    override.starts_at = starts_at or now
    try:
        override.full_clean()
        check_override(override, now=now)
    except ValidationError as error:
        raise InvalidOverride(_sentence(error)) from None
    name_editor(actor=actor, note=note)
    override.save(force_insert=True)
    return override


def check_override(override: Override, *, now: datetime) -> None:
    """Refuse a new override that would change nothing.

    Raises:
        django.core.exceptions.ValidationError: the change is 0, or its time is over.
    """
    if override.change == 0:
        raise ValidationError({"change": "A change of 0 changes nothing: 20 is twenty more, -5 five fewer."})
    if override.ends_at <= now:
        raise ValidationError({"ends_at": "This time is over already."})


@transaction.atomic
def add_member(*, tenant: Tenant, user: AbstractBaseUser) -> Membership:
    """Let a user act for a tenant; one who may already is no error."""
    membership, _ = Membership.objects.get_or_create(tenant=tenant, user_id=user.pk)
    return membership


@transaction.atomic
def issue_api_key(*, tenant: Tenant, name: str = "") -> str:
    """Issue a key and return its text, which nobody can get again: only its hash is kept."""
    made = credentials.generate()
    key = ApiKey(tenant=tenant, name=name.strip(), prefix=made.prefix, hash=made.hash)
    try:
        key.full_clean()
    except ValidationError as error:
        raise InvalidTenant(_sentence(error)) from None
    key.save(force_insert=True)
    return made.plaintext


@transaction.atomic
def revoke_api_key(*, key_id: int) -> bool:
    """Make a key invalid from now on, for good.

    Returns:
        True if this call revoked it, False if it was revoked already or is not there.
    """
    return ApiKey.objects.filter(pk=key_id, revoked_at=None).update(revoked_at=timezone.now()) == 1


def authenticate_api_key(plaintext: str, *, now: datetime | None = None) -> Tenant:
    """Return the tenant whose key this is, with its quota, and note the use, to the minute.

    A suspended tenant is returned too: the caller tells it so.

    Args:
        plaintext: what the caller sent as its key.
        now: the time of the decision; the clock's where left out.

    Raises:
        InvalidApiKey: malformed, unknown, wrong or revoked, told alike.
    """
    now = now or timezone.now()
    prefix = credentials.prefix_of(plaintext)
    key = ApiKey.objects.select_related("tenant__quota").filter(prefix=prefix, revoked_at=None).first() if prefix else None
    if key is None or not credentials.matches(plaintext, key.hash):
        raise InvalidApiKey
    stale = now - LAST_USED_PRECISION
    if key.last_used_at is None or key.last_used_at <= stale:
        # Conditional, so that of many requests at once one writes.
        unchanged = ApiKey.objects.filter(pk=key.pk, last_used_at=key.last_used_at)
        unchanged.update(last_used_at=now)
    return key.tenant


def _describe(field: Any) -> QuotaField:
    lowest = max(each.limit_value for each in field.validators if isinstance(each, MinValueValidator))
    highest = min(each.limit_value for each in field.validators if isinstance(each, MaxValueValidator))
    return QuotaField(field.name, int(lowest), int(highest), field.null, field.default, str(field.help_text))


def _tenant_id(slug: str) -> int:
    tenant_id = Tenant.objects.filter(slug=slug).values_list("pk", flat=True).first()
    if tenant_id is None:
        raise TenantNotFound(_unknown(slug))
    return tenant_id


def _parse(name: str, value: str) -> int | str | None:
    fields, text = quota_fields(), value.strip()
    if name in QUOTA_TEXTS:
        return text
    if name not in fields:
        raise InvalidQuota(f"There is no quota field {name!r}; the fields are {', '.join((*fields, *QUOTA_TEXTS))}.")
    field = fields[name]
    if not text and field.nullable:
        return None
    if re.fullmatch(r"[0-9]{1,10}", text) and field.minimum <= int(text) <= field.maximum:
        return int(text)
    empty = ", or empty for unlimited" if field.nullable else ""
    raise InvalidQuota(f"{name} must be a whole number from {field.minimum} to {field.maximum}{empty}, not {value!r}.")


def _unknown(slug: str) -> str:
    return f"There is no tenant with the slug {slug!r}."


def _taken(slug: str) -> str:
    return f"There is a tenant with the slug {slug!r} already."


def _sentence(error: ValidationError) -> str:
    """The first thing that is wrong; the field's name before it where the message does not say it."""
    field, messages = next(iter(error.message_dict.items())) if hasattr(error, "error_dict") else ("__all__", error.messages)
    return messages[0] if field in {"__all__", "slug"} else f"{field}: {messages[0]}"
