"""Session records, their events, and the small rows for what is live.

Hot and cold apart: ``Slot`` rows come and go with what is live; ``Session`` records stay, with no index whose predicate flips at
every end. Only ``services.ledger`` writes here; triggers refuse everybody else.
"""

import uuid
from typing import TYPE_CHECKING

import uuid_utils.compat
from django.db import models

from sessions_app.domain import states
from sessions_app.models.backends import Backend
from tenants.models import Tenant

if TYPE_CHECKING:
    from django_stubs_ext.db.models.manager import RelatedManager

STATES = [(each.value, each.value) for each in states.State]


def new_id() -> uuid.UUID:
    """Return a UUIDv7: in the order of time, so that the newest rows share index pages."""
    return uuid_utils.compat.uuid7()


class Session(models.Model):
    """One attempt and what became of it. Its id is that of the connect token that asked."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # The ledger, its only writer, holds the locks of both; who deletes one of them is refused by trigger.
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="+", db_index=False, db_constraint=False)
    user = models.CharField(max_length=255)
    state = models.CharField(max_length=12, choices=STATES)
    reason = models.CharField(max_length=32, blank=True, default="")
    detail = models.CharField(max_length=300, blank=True, default="")
    backend = models.ForeignKey(Backend, models.PROTECT, null=True, related_name="+", db_index=False, db_constraint=False)
    pipeline = models.CharField(max_length=20, blank=True, default="")
    transport = models.CharField(max_length=20, blank=True, default="")
    metadata = models.JSONField(default=dict)
    node_id = models.UUIDField(null=True)
    limits = models.JSONField(default=list, help_text="What was in use and what the limit was, per scope, at the verdict.")
    burst = models.BooleanField(db_default=False, help_text="It was let in above its tenant's limit.")
    attempted_at = models.DateTimeField()
    queued_at = models.DateTimeField(null=True, help_text="When it began to wait.")
    started_at = models.DateTimeField(null=True, help_text="When it got its slot.")
    active_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    trace_id = models.CharField(max_length=32, blank=True, db_default="", help_text="The trace that tells of it, as 32 hex digits.")

    if TYPE_CHECKING:
        events: RelatedManager["SessionEvent"]

    class Meta:
        indexes = [
            models.Index(fields=["tenant", "-id"], name="history_of_a_tenant"),
            models.Index(fields=["tenant", "user", "-id"], name="history_of_a_user"),
            models.Index(fields=["backend", "-id"], name="history_of_a_backend"),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(state__in=[each.value for each in states.State]), name="session_state_is_known")
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def duration_ms(self) -> int | None:
        """How long the session was active, in milliseconds; None before its end, 0 where it never became active."""
        if self.ended_at is None:
            return None
        return round((self.ended_at - self.active_at).total_seconds() * 1000) if self.active_at else 0


class SessionEvent(models.Model):
    """One change of a session, for ever: appended in the transaction that made it, never edited."""

    id = models.BigAutoField(primary_key=True)
    session = models.ForeignKey(Session, models.CASCADE, related_name="events", db_index=False, db_constraint=False)
    seq = models.BigIntegerField(help_text="Sequence number of the ledger's transaction, taken under its locks.")
    old = models.CharField(max_length=12, blank=True, default="")
    new = models.CharField(max_length=12)
    reason = models.CharField(max_length=32, blank=True, default="")
    at = models.DateTimeField()
    node_id = models.UUIDField(null=True)
    actor = models.CharField(max_length=150, blank=True, default="")
    detail = models.JSONField(default=dict)
    tenant_id = models.BigIntegerField()
    backend_id = models.BigIntegerField(null=True)

    class Meta:
        ordering = ["id"]
        # In the database its primary key is (session, id): nothing looks for an event by its id alone.
        indexes = [models.Index(fields=["seq"], name="history_in_order")]

    def __str__(self) -> str:
        return f"{self.old} to {self.new}" if self.old else self.new


class Slot(models.Model):
    """One unit of concurrency in use. The row is there exactly as long as its session is in a slot-holding state."""

    session = models.OneToOneField(Session, models.CASCADE, primary_key=True, related_name="slot", db_constraint=False)
    tenant_id = models.BigIntegerField()
    backend_id = models.BigIntegerField()
    user = models.CharField(max_length=255)
    state = models.CharField(max_length=12, choices=STATES)
    node_id = models.UUIDField(null=True)
    since = models.DateTimeField()
    lease_until = models.DateTimeField(
        null=True, help_text="End of the grace while reconnecting; while empty the node's heartbeat is the lease."
    )
    dropped_at = models.DateTimeField(null=True, help_text="When its client was last seen, while reconnecting.")
    # Resume tokens are numbered by the connection that they were given to: good are those from the floor to the newest.
    generation = models.IntegerField(db_default=1, help_text="Number of the newest connection.")
    resume_floor = models.IntegerField(db_default=1, help_text="Number of the oldest resume token that is still good.")
    stale_uses = models.IntegerField(db_default=0, help_text="Older resume tokens that were shown and refused.")

    class Meta:
        indexes = [
            models.Index(fields=["tenant_id", "user"], name="slots_of_a_user"),
            models.Index(fields=["lease_until"], name="slots_past_their_grace", condition=models.Q(lease_until__isnull=False)),
        ]
        constraints = [models.CheckConstraint(condition=models.Q(state__in=sorted(states.SLOT_STATES)), name="slot_state_holds_a_slot")]

    def __str__(self) -> str:
        return str(self.session_id)


class EndRequest(models.Model):
    """Somebody asked for a session's end: the node that carries it does so within a second, the sweep where there is none."""

    session = models.OneToOneField(Session, models.CASCADE, primary_key=True, related_name="end_request")
    reason = models.CharField(max_length=32)
    detail = models.CharField(max_length=300, blank=True, default="")
    actor = models.CharField(max_length=150, blank=True, default="")
    asked_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.session_id}: {self.reason}"
