"""Backends, who may use them, what the probes saw, and the platform's own cap. Limits here are edited by admins, live."""

from typing import TYPE_CHECKING, Final

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

from sessions_app.models.fields import EncryptedField
from tenants.models import Tenant

if TYPE_CHECKING:
    from django_stubs_ext.db.models.manager import RelatedManager


def default_pipelines() -> dict[str, dict[str, str]]:
    """One speech-to-speech pipeline without a named model."""
    return {"s2s": {}}


def default_transports() -> list[str]:
    """Audio over the WebSocket."""
    return ["websocket"]


TRANSPORTS: Final = frozenset({"websocket", "webrtc"})


class Backend(models.Model):
    """One configured voice backend with its own cap."""

    name = models.SlugField(unique=True, help_text="A client may ask for it by this name.")
    provider = models.CharField(max_length=50, help_text="The code that talks to it, as named in VOICE_PROVIDERS.")
    options = models.JSONField(default=dict, blank=True)
    secrets = EncryptedField(default=dict, blank=True)
    cap = models.PositiveIntegerField(null=True, blank=True, default=100, help_text="Sessions at once. Empty: unlimited. 0: none.")
    weight = models.PositiveIntegerField(
        default=1, help_text="Share of new sessions among the backends that can take them. 0: last resort."
    )
    enabled = models.BooleanField(default=True)
    draining = models.BooleanField(default=False, help_text="Takes no new sessions; those that it has go on.")
    burst_below = models.FloatField(
        default=0.8, validators=[MinValueValidator(0), MaxValueValidator(1)], help_text="Bursts are allowed below this share of the cap."
    )
    pipelines = models.JSONField(default=default_pipelines, help_text='Pipelines with their models: {"s2s": {"model": "…"}}.')
    transports = models.JSONField(default=default_transports, help_text='"websocket", "webrtc".')
    updated_at = models.DateTimeField(auto_now=True)

    if TYPE_CHECKING:
        access: RelatedManager["BackendAccess"]

    class Meta:
        ordering = ["name"]
        constraints = [models.CheckConstraint(condition=models.Q(burst_below__range=(0, 1)), name="backend_burst_below_is_a_share")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Refuse JSON of another form than the ledger and the providers read.

        Raises:
            ValidationError: a sentence for each such field.
        """
        wrong = {}
        if not isinstance(self.options, dict):
            wrong["options"] = "Options must be a JSON object."
        if (
            not isinstance(self.pipelines, dict)
            or not self.pipelines
            or not all(isinstance(each, dict) for each in self.pipelines.values())
        ):
            wrong["pipelines"] = 'Pipelines must be a JSON object with at least one pipeline: {"s2s": {"model": "…"}}.'
        if not isinstance(self.transports, list) or not self.transports or not set(map(str, self.transports)) <= TRANSPORTS:
            wrong["transports"] = f"Transports must be a JSON list of {' and '.join(sorted(TRANSPORTS))}."
        if wrong:
            raise ValidationError(wrong)


class BackendHealth(models.Model):
    """What the probes saw; written by machines only, apart from the backend so that no form overwrites it."""

    class Status(models.TextChoices):
        UNKNOWN = "unknown"
        HEALTHY = "healthy"
        UNHEALTHY = "unhealthy"

    backend = models.OneToOneField(Backend, models.CASCADE, primary_key=True, related_name="health")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.UNKNOWN)
    failures = models.PositiveIntegerField(default=0, help_text="Failed probes in a row.")
    last_probe_at = models.DateTimeField(null=True)
    latency_ms = models.FloatField(null=True)
    error = models.CharField(max_length=300, blank=True, default="")
    claimed_until = models.DateTimeField(null=True, help_text="Somebody is probing until then.")

    class Meta:
        verbose_name_plural = "backend health"

    def __str__(self) -> str:
        return f"{self.backend_id}: {self.status}"


class BackendAccess(models.Model):
    """This tenant may use this backend. A tenant without any row may use every enabled backend.

    A limit of the tenant: triggers record each change under its lock, and refuse one that moves reserved slots where there is no room.
    """

    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")
    backend = models.ForeignKey(Backend, models.CASCADE, related_name="access")

    class Meta:
        verbose_name_plural = "backend access"
        constraints = [models.UniqueConstraint(fields=["tenant", "backend"], name="backend_access_once")]

    def __str__(self) -> str:
        return f"{self.tenant_id} may use {self.backend_id}"


class Platform(models.Model):
    """The one row with what holds for all tenants and backends together."""

    max_concurrent_sessions = models.PositiveIntegerField(null=True, blank=True, help_text="Empty: unlimited. 0: none.")

    class Meta:
        verbose_name_plural = "platform"
        constraints = [models.CheckConstraint(condition=models.Q(pk=1), name="platform_is_one_row")]

    def __str__(self) -> str:
        return "Platform"
