"""Tables of tenants, their quotas, members and API keys, with every rule about a single row as a constraint in the database.

Owns: names, units and defaults of the quota. An empty (null) limit is unlimited, 0 is none at all.
Refuses: rules that need other tables (``extensions``) and counting what is in use, which is not known here.
"""

from typing import Final

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from tenants import credentials, extensions

SLUG_PATTERN: Final = r"^[a-z0-9][a-z0-9_-]*\Z"
SLUG_RULE: Final = "A slug has lower-case letters, digits, hyphens and underscores, and begins with a letter or a digit."
LOWEST_PRIORITY: Final = 0
HIGHEST_PRIORITY: Final = 9


class Tenant(models.Model):
    """A customer of the platform: sessions belong to it, its quota bounds them."""

    class Status(models.TextChoices):
        """Whether the tenant's users may start sessions."""

        ACTIVE = "active", "active"
        SUSPENDED = "suspended", "suspended"

    id = models.BigAutoField(primary_key=True)
    slug = models.SlugField(
        max_length=50,
        unique=True,
        validators=[RegexValidator(SLUG_PATTERN, SLUG_RULE)],
        error_messages={"invalid": SLUG_RULE},
        help_text="Its name in commands and URLs. " + SLUG_RULE,
    )
    name = models.CharField(max_length=100)
    status = models.CharField(
        max_length=9,
        choices=Status.choices,
        default=Status.ACTIVE,
        help_text="A suspended tenant starts no new sessions; those that live go on.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["slug"]
        constraints = [
            models.CheckConstraint(
                condition=Q(slug__regex=SLUG_PATTERN), name="tenants_tenant_slug_format", violation_error_message=SLUG_RULE
            ),
            models.CheckConstraint(condition=~Q(name=""), name="tenants_tenant_name_given"),
            models.CheckConstraint(condition=Q(status__in=["active", "suspended"]), name="tenants_tenant_status_known"),
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def suspended(self) -> bool:
        """Whether new sessions are refused with ``tenant_suspended``."""
        return self.status == self.Status.SUSPENDED


class Quota(models.Model):
    """The limits in force for one tenant, read by every admission: an edit acts on the next one."""

    id = models.BigAutoField(primary_key=True)
    tenant = models.OneToOneField(Tenant, on_delete=models.CASCADE, related_name="quota")
    max_concurrent_sessions = models.PositiveIntegerField(
        null=True, blank=True, default=10, help_text="Sessions at the same time; empty: unlimited."
    )
    max_sessions_per_user = models.PositiveIntegerField(
        null=True, blank=True, default=None, help_text="Sessions of one user at the same time; empty: unlimited."
    )
    sessions_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        default=600,
        help_text="New sessions a minute (admitted or queued; refusals are free); empty: unlimited.",
    )
    user_sessions_per_minute = models.PositiveIntegerField(
        null=True, blank=True, default=None, help_text="New sessions of one user a minute; empty: unlimited."
    )
    max_duration_s = models.PositiveIntegerField(
        null=True, blank=True, default=3600, help_text="Seconds that a session may last; empty: unlimited."
    )
    idle_timeout_s = models.PositiveIntegerField(
        null=True, blank=True, default=60, help_text="Seconds without audio in either direction that end a session; empty: never."
    )
    grace_s = models.PositiveIntegerField(default=12, help_text="Seconds that a slot is kept for a client that dropped; 0: not at all.")
    reserved = models.PositiveIntegerField(
        default=0, help_text="Slots on one backend that no other tenant may take; the sum may not exceed the backend's cap."
    )
    burst = models.PositiveIntegerField(
        default=0, help_text="Sessions above the limit while the backend is below its burst_below share; marked in the history."
    )
    priority = models.PositiveIntegerField(
        default=0,
        validators=[MinValueValidator(LOWEST_PRIORITY), MaxValueValidator(HIGHEST_PRIORITY)],
        help_text="0 to 9; the higher is promoted from the queue first. Every 30 s of waiting counts as one step.",
    )
    weight = models.PositiveIntegerField(
        default=1, validators=[MinValueValidator(1)], help_text="Share of what is promoted among tenants of the same priority; 1 or more."
    )
    max_queue_length = models.PositiveIntegerField(
        null=True, blank=True, default=0, help_text="Sessions that may wait; 0: no queue; empty: unlimited."
    )
    max_queue_wait_s = models.PositiveIntegerField(
        null=True, blank=True, default=60, help_text="Seconds that a session may wait in the queue; empty: unlimited."
    )

    reserved_backend = models.SlugField(
        blank=True, default="", help_text="Where the reserved slots are; empty: on the only or the first backend that the tenant may use."
    )

    class Meta:
        indexes = [models.Index(fields=["tenant"], name="quotas_that_reserve", condition=Q(reserved__gt=0))]
        constraints = [
            models.CheckConstraint(
                condition=Q(priority__gte=LOWEST_PRIORITY, priority__lte=HIGHEST_PRIORITY), name="tenants_quota_priority_0_to_9"
            ),
            models.CheckConstraint(condition=Q(weight__gte=1), name="tenants_quota_weight_from_1"),
        ]

    def __str__(self) -> str:
        return f"quota of {self.tenant}"

    def clean(self) -> None:
        """Ask those who know more than this row; form and service both come here, inside their transaction."""
        super().clean()
        extensions.validate_quota(self)


OVERRIDABLE: Final = (
    "max_concurrent_sessions",
    "max_sessions_per_user",
    "sessions_per_minute",
    "user_sessions_per_minute",
    "burst",
    "max_queue_length",
)


class Override(models.Model):
    """A change of one limit for a time: it is added to what the quota says, and reverts by itself when its time is over.

    An unlimited figure stays so, and none goes below zero. The times are compared with the database's clock.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="overrides", db_index=False)
    field = models.CharField(max_length=40, choices=[(each, each) for each in OVERRIDABLE])
    change = models.IntegerField(help_text="Added to the quota's figure: 20 is twenty more, -5 five fewer.")
    starts_at = models.DateTimeField(default=timezone.now)
    ends_at = models.DateTimeField()
    note = models.CharField(max_length=200, help_text="Why.")
    created_by = models.CharField(max_length=150, blank=True, default="", editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-ends_at"]
        indexes = [models.Index(fields=["tenant", "ends_at"], name="overrides_in_force")]
        constraints = [
            models.CheckConstraint(
                condition=Q(ends_at__gt=F("starts_at")),
                name="tenants_override_ends_after_its_start",
                violation_error_message="An override ends after it starts.",
            ),
            models.CheckConstraint(condition=Q(field__in=OVERRIDABLE), name="tenants_override_field_known"),
        ]

    def __str__(self) -> str:
        return f"{self.change:+d} {self.field} until {self.ends_at:%Y-%m-%d %H:%M}"


class Membership(models.Model):
    """A Django user who may act for a tenant."""

    id = models.BigAutoField(primary_key=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="memberships")

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint(fields=["user", "tenant"], name="tenants_membership_once")]

    def __str__(self) -> str:
        return f"{self.user} in {self.tenant}"


class ApiKey(models.Model):
    """A credential of a tenant's own servers; the key itself is not kept."""

    id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100, blank=True, default="", help_text="What uses it, so that you know what a revocation stops.")
    prefix = models.CharField(max_length=12, unique=True, editable=False)
    hash = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    revoked_at = models.DateTimeField(null=True, editable=False)
    last_used_at = models.DateTimeField(null=True, editable=False, help_text="To the minute.")

    class Meta:
        verbose_name = "API key"
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(prefix__regex=rf"^{credentials.PREFIX_PATTERN}\Z"), name="tenants_apikey_prefix_format"),
            # A key kept in clear by mistake would not fit.
            models.CheckConstraint(condition=Q(hash__regex=r"^[0-9a-f]{64}\Z"), name="tenants_apikey_hash_format"),
        ]

    def __str__(self) -> str:
        return f"vk_{self.prefix}_…"
