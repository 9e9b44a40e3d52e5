"""Edits of backends and of the platform, for commands and the first start, and what has to fit together when limits are edited.

Owns: that reserved slots fit below their backend's cap. It is checked under the locks that the ledger and the triggers take, in the order
in which they take them (row, tenants, backends), so that what was checked is still so when it is written; a trigger checks the same again,
and alone where reserved slots move with their tenant's access or with the first backend that is enabled. Limits act on the next batch of
the ledger.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, models, transaction

from sessions_app.models import Backend, BackendAccess, Platform
from sessions_app.services.ledger_sql import BACKEND_KEY, TENANT_KEY
from tenants import extensions
from tenants import services as tenant_services
from tenants.models import Quota

_JSON_FIELDS: Final = frozenset({"options", "pipelines", "transports", "secrets"})
BACKEND_FIELDS: Final = ("provider", "cap", "weight", "enabled", "draining", "burst_below", "options", "secrets", "pipelines", "transports")
PLATFORM_FIELDS: Final = ("max_concurrent_sessions",)
_WORDS: Final = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_MOST_NAMED: Final = 5

# The function is the one that ledger and triggers ask: where a tenant's reserved slots are.
_WHERE: Final = "SELECT voice_reserved_on(%s, %s)"
_RESERVED: Final = """
SELECT b.name, b.cap, (SELECT coalesce(sum(q.reserved), 0)::bigint FROM tenants_quota q WHERE q.reserved > 0 AND q.tenant_id <> %(but)s
    AND voice_reserved_on(q.tenant_id, q.reserved_backend) = b.id)
FROM sessions_app_backend b WHERE b.id = %(backend)s"""


@transaction.atomic
def set_backend(*, name: str, values: Mapping[str, str], actor: str = "", note: str = "") -> tuple[Backend, bool]:
    """Change the named backend, or make it; return it, and whether it was made. ``actor`` and ``note``: who does it, and why.

    Raises:
        ValidationError: an unknown field, a wrong value, a cap below what is or would be reserved, on this or on another backend, or a new
            backend without a provider.
    """
    # no_key: a session's insert must not wait for this row while its transaction holds the lock that this edit will want.
    backend = Backend.objects.select_for_update(no_key=True).filter(name=name).first()
    made = backend is None
    if backend is None:
        backend = Backend(name=name)
    _assign(backend, values, BACKEND_FIELDS)
    backend.full_clean()
    tenant_services.name_editor(actor=actor, note=note)
    _save(backend)
    return backend, made


@transaction.atomic
def keep_livekit(*, name: str, url: str, api_key: str, api_secret: str, echo_agent_url: str, actor: str = "", note: str = "") -> bool:
    """Make the LiveKit backend of this name, or let it follow its server: address and keys; return whether anything was changed.

    Everything else about it is an operator's: an agent that they set in the echo agent's place stays. A key that gives way to another is
    kept as the previous one, since webhooks may still be signed with it.

    Raises:
        ValidationError: more is reserved on a backend of this name than it would have.
    """
    backend = Backend.objects.select_for_update(no_key=True).filter(name=name).first()
    keys = {"api_key": api_key, "api_secret": api_secret}
    if backend is None:
        options = {"url": url, "echo_agent_url": echo_agent_url} if echo_agent_url else {"url": url, "agent_timeout_s": 0}
        backend = Backend(name=name, provider="livekit", transports=["webrtc"], pipelines={"s2s": {}, "stt_tts": {}})
        backend.options, backend.secrets = options, keys
    elif backend.provider != "livekit":
        return False
    else:
        known = dict(backend.secrets)
        if any(known.get(field) != value for field, value in keys.items()):
            former = {f"previous_{field}": known[field] for field in keys if field in known}
            backend.secrets = {**keys, **(former if known.get("api_key") != api_key else {})}
        options = {**backend.options, "url": url}
        if options.get("echo_agent_url") and echo_agent_url:
            options["echo_agent_url"] = echo_agent_url
        if (options, backend.secrets) == (backend.options, known):
            return False
        backend.options = options
    backend.full_clean()
    tenant_services.name_editor(actor=actor, note=note)
    _save(backend)
    return True


@transaction.atomic
def set_platform(*, values: Mapping[str, str], actor: str = "", note: str = "") -> Platform:
    """Change the platform's limits. ``actor`` and ``note``: who does it, and why.

    Raises:
        ValidationError: an unknown field or a wrong value.
    """
    platform = Platform.objects.select_for_update(no_key=True).get()
    _assign(platform, values, PLATFORM_FIELDS)
    platform.full_clean()
    tenant_services.name_editor(actor=actor, note=note)
    platform.save()
    return platform


def check_reservation(quota: Quota) -> None:
    """Refuse a reservation that no backend can keep; for a quota that is about to be written, in its transaction.

    Locks the rows of tenant and quota, then the ledger's of the tenant and the backend. A reservation that stays as it is is not looked at.

    Raises:
        ValidationError: its backend is not there, the tenant may not use it, or the sum would be above its cap.
    """
    wanted, tenant_id = (quota.reserved, quota.reserved_backend), quota.tenant_id or 0
    if wanted == ((0, "") if quota.pk is None else _reservation(quota)):
        return
    tenant_services.lock_quota(tenant_id=tenant_id)
    if quota.reserved_backend:
        _check_usable(quota.reserved_backend, tenant_id)
    if not quota.reserved:
        return
    lock_tenants([tenant_id])
    before, backend_id = _reservation(quota), _place(tenant_id, quota.reserved_backend)
    # Both, since the trigger takes both: the one that is left, too, and the lower one first.
    _lock_backends({backend_id, _place(tenant_id, before[1]) if before is not None and before[0] else None})
    if backend_id is not None:
        name, cap, others = _reserved(backend_id, but=tenant_id)
        _fit(name, cap, others + quota.reserved)


def give_up_reservation(*, tenant_id: int) -> None:
    """Free a tenant's reserved slots before it is deleted: its access goes before its quota does, and would move them somewhere else."""
    Quota.objects.filter(tenant_id=tenant_id, reserved__gt=0).update(reserved=0)


def check_cap(*, backend_id: int, cap: int | None) -> None:
    """Refuse a cap below what is reserved on the backend; locks its row, then the ledger's lock of it.

    Raises:
        ValidationError: with a sentence.
    """
    list(Backend.objects.select_for_update(no_key=True).filter(pk=backend_id).values_list("pk"))
    name, _, reserved = _reserved(backend_id, but=0)
    _fit(name, cap, reserved)


def lock_tenants(tenant_ids: Iterable[int]) -> None:
    """Take the ledger's locks of tenants; for an edit of who may use a backend, before anything of the backend is locked."""
    with connection.cursor() as cursor:
        for tenant_id in sorted(set(tenant_ids)):
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [TENANT_KEY + tenant_id])


def check_access(*, backend_id: int | None, allowed: Collection[int], forbidden: Collection[int]) -> None:
    """Refuse an edit after which a tenant may not use the backend that its quota names for its reserved slots.

    Args:
        backend_id: The backend that is edited; None where it is yet to be made.
        allowed: Ids of tenants that may use it from now on.
        forbidden: Ids of those that may not.

    Raises:
        ValidationError: with a sentence.
    """
    concerned = Quota.objects.filter(tenant__in={*allowed, *forbidden}, reserved__gt=0).exclude(reserved_backend="")
    for quota in concerned.select_related("tenant").order_by("tenant__slug"):
        usable: set[int | None] = set(BackendAccess.objects.filter(tenant_id=quota.tenant_id).values_list("backend_id", flat=True))
        usable = usable - {backend_id} if quota.tenant_id in forbidden else usable | {backend_id}
        named = Backend.objects.filter(name=quota.reserved_backend).values_list("pk", flat=True).first()
        if usable and named is not None and named not in usable:
            raise ValidationError(
                f"{quota.tenant} has reserved slots on backend {quota.reserved_backend}, which it could not use any more."
            )


def reserving_on(name: str) -> list[str]:
    """Return the slugs of tenants whose quotas name this backend for their reserved slots: a few, which is enough for a sentence."""
    found = Quota.objects.filter(reserved_backend=name, reserved__gt=0).order_by("tenant__slug")
    return list(found.values_list("tenant__slug", flat=True)[:_MOST_NAMED])


def _reservation(quota: Quota) -> tuple[int, str] | None:
    return Quota.objects.filter(pk=quota.pk).values_list("reserved", "reserved_backend").first()


def _check_usable(name: str, tenant_id: int) -> None:
    backend = Backend.objects.filter(name=name).first()
    if backend is None:
        names = ", ".join(Backend.objects.order_by("name").values_list("name", flat=True)[:_MOST_NAMED])
        raise ValidationError(f"There is no backend {name!r} to reserve slots on{f'; there are: {names}' if names else ''}.")
    allowed = set(BackendAccess.objects.filter(tenant_id=tenant_id).values_list("backend_id", flat=True))
    if allowed and backend.pk not in allowed:
        raise ValidationError(f"The tenant may not use backend {name}, so it can reserve no slots there.")


def _place(tenant_id: int, named: str) -> int | None:
    with connection.cursor() as cursor:
        cursor.execute(_WHERE, [tenant_id, named])
        place: int | None = cursor.fetchall()[0][0]
    return place


def _lock_backends(ids: Collection[int | None]) -> None:
    with connection.cursor() as cursor:
        for backend_id in sorted(each for each in ids if each is not None):
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [BACKEND_KEY + backend_id])


def _reserved(backend_id: int, *, but: int) -> tuple[str, int | None, int]:
    """Return a backend's name, its cap, and how much of it tenants but one have reserved, under its lock."""
    _lock_backends({backend_id})
    with connection.cursor() as cursor:
        # A statement of its own: it has to see what was committed while the lock was waited for.
        cursor.execute(_RESERVED, {"backend": backend_id, "but": but})
        found: tuple[str, int | None, int] = cursor.fetchall()[0]
    return found


def _fit(name: str, cap: int | None, reserved: int) -> None:
    if cap is not None and reserved > cap:
        raise ValidationError(f"Reservations on backend {name} would be {reserved} slots, more than its cap of {cap}.")


def _save(backend: Backend) -> None:
    """Write it; what the trigger refuses is a sentence."""
    try:
        with transaction.atomic():
            backend.save()
    except DatabaseError as error:
        if sentence := extensions.refusal(error):
            raise ValidationError(sentence) from None
        raise


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
