"""Rooms of live sessions, what their providers told by webhook, and what was found that no session admitted.

None of it is state or capacity, which are the ledger's: these rows are what the platform knows and has still to do. ``Room`` is small and
hot while its session lives; all three are pruned with the history.
"""

from django.db import models

from sessions_app.models.backends import Backend
from sessions_app.models.sessions import Session


class Room(models.Model):
    """The room of one session: written before the provider is asked to make it, closed when the provider has removed it."""

    session = models.OneToOneField(Session, models.CASCADE, primary_key=True, related_name="room")
    backend = models.ForeignKey(Backend, models.PROTECT, related_name="+", db_index=False)
    name = models.CharField(max_length=128)
    made_at = models.DateTimeField(help_text="When it was first asked for, on this backend.")
    generation = models.IntegerField(db_default=1, help_text="How often it was made; its client needs a fresh token each time.")
    join_by = models.DateTimeField(null=True, help_text="The user must be there by then; empty: they were.")
    agent_by = models.DateTimeField(null=True, help_text="An agent must be there by then; empty: one is, or none is expected.")
    agent_tries = models.IntegerField(db_default=0, help_text="How often an agent was asked for again.")
    user_here = models.BooleanField(db_default=False)
    agent_here = models.BooleanField(db_default=False)
    facts = models.JSONField(default=dict, help_text="What the provider said of it so far.")
    seen_at = models.DateTimeField(null=True, help_text="When the provider was last asked who is there.")
    close_tries = models.IntegerField(db_default=0, help_text="How often it could not be removed.")
    closed_at = models.DateTimeField(null=True, help_text="When the provider had removed it.")
    due_at = models.DateTimeField(null=True, help_text="When somebody has to look after it.")
    claimed_by = models.CharField(max_length=100, blank=True, default="")
    claimed_until = models.DateTimeField(null=True, help_text="Somebody looks after it until then.")

    class Meta:
        indexes = [
            models.Index(fields=["due_at"], name="rooms_that_are_due", condition=models.Q(due_at__isnull=False)),
            models.Index(fields=["backend"], name="rooms_of_a_backend", condition=models.Q(closed_at__isnull=True)),
        ]

    def __str__(self) -> str:
        return self.name


class WebhookEvent(models.Model):
    """One event of a provider, stored before anything is made of it. ``verdict`` says what was."""

    backend = models.ForeignKey(Backend, models.CASCADE, related_name="+", db_index=False)
    event_id = models.CharField(max_length=100, help_text="The provider's own; the same each time that it is delivered.")
    name = models.CharField(max_length=50, help_text="The provider's name for the kind of event.")
    room = models.CharField(max_length=128, blank=True, default="")
    session_id = models.UUIDField(null=True, help_text="The session that the room is named after.")
    body = models.JSONField(default=dict, help_text="As it came, but for secrets.")
    received_at = models.DateTimeField()
    processed_at = models.DateTimeField(null=True)
    verdict = models.CharField(max_length=200, blank=True, default="")
    attempts = models.IntegerField(db_default=0)

    class Meta:
        indexes = [
            models.Index(fields=["session_id", "id"], name="webhooks_of_a_session"),
            models.Index(fields=["id"], name="webhooks_to_process", condition=models.Q(processed_at__isnull=True)),
            models.Index(fields=["received_at"], name="webhooks_by_time"),
        ]
        constraints = [models.UniqueConstraint(fields=["backend", "event_id"], name="webhook_event_once")]

    def __str__(self) -> str:
        return f"{self.name} {self.event_id}"


class Drift(models.Model):
    """Something that the provider and the platform did not agree on, and what was done about it."""

    class Kind(models.TextChoices):
        ORPHAN_ROOM = "orphan_room", "a room that no session admitted"
        FOREIGN_PARTICIPANT = "foreign_participant", "a participant whom no session admitted"
        LOST_ROOM = "lost_room", "a live session without its room"
        GHOST_SESSION = "ghost_session", "a session whose user had gone unnoticed"

    kind = models.CharField(max_length=20, choices=Kind.choices)
    backend = models.ForeignKey(Backend, models.CASCADE, related_name="+", db_index=False)
    room = models.CharField(max_length=128)
    sid = models.CharField(max_length=64, blank=True, default="", help_text="The provider's own id of the room or participant.")
    participant = models.CharField(max_length=128, blank=True, default="")
    session_id = models.UUIDField(null=True)
    detail = models.CharField(max_length=200, blank=True, default="")
    at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "drift"
        indexes = [models.Index(fields=["-at"], name="drift_by_time")]
        # Found by two at once it is one.
        constraints = [models.UniqueConstraint(fields=["backend", "kind", "room", "sid"], name="drift_once")]

    def __str__(self) -> str:
        return f"{self.kind}: {self.room}"


class WebhookRefusal(models.Model):
    """How many webhooks of one minute were refused, by reason. Bounded: one row a minute, backend and reason."""

    minute = models.DateTimeField()
    backend = models.ForeignKey(Backend, models.CASCADE, related_name="+")
    reason = models.CharField(max_length=32)
    count = models.IntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["backend", "minute", "reason"], name="webhook_refusals_of_a_minute")]

    def __str__(self) -> str:
        return f"{self.count} {self.reason} at {self.minute}"
