"""Who waits, how fast sessions may begin, and how many attempts were refused without a record of their own.

Small tables of rows that come and go; only ``services.ledger`` writes them (but for counts of what was refused before anybody was known).
"""

from django.db import models

from sessions_app.models.sessions import Session


class Waiter(models.Model):
    """A place in the queue. The row is there exactly as long as its session is queued."""

    session = models.OneToOneField(Session, models.CASCADE, primary_key=True, related_name="waiter", db_constraint=False)
    tenant_id = models.BigIntegerField()
    user = models.CharField(max_length=255)
    pipeline = models.CharField(max_length=20, blank=True, default="")
    transport = models.CharField(max_length=20)
    backend_name = models.CharField(max_length=50, blank=True, default="", help_text="The one asked for; empty: any.")
    node_id = models.UUIDField(null=True)
    since = models.DateTimeField(help_text="When it began to wait.")
    place = models.BigIntegerField(help_text="Orders those who began at the same time.")
    absent_until = models.DateTimeField(null=True, help_text="Its client is away; the place is kept until then.")
    generation = models.IntegerField(db_default=1, help_text="Number of the newest connection.")
    resume_floor = models.IntegerField(db_default=1, help_text="Number of the oldest resume token that is still good.")

    class Meta:
        indexes = [
            # No other index has a tenant's waiters in order: who asked for a full backend would be read and passed over by it.
            models.Index(fields=["tenant_id", "backend_name", "pipeline", "transport", "since", "place"], name="waiters_in_line"),
            models.Index(
                fields=["tenant_id", "backend_name", "pipeline", "transport", "user", "since", "place"], name="waiters_in_line_by_user"
            ),
            models.Index(fields=["node_id"], name="waiters_of_a_node"),
            models.Index(fields=["absent_until"], name="waiters_who_are_away", condition=models.Q(absent_until__isnull=False)),
        ]

    def __str__(self) -> str:
        return str(self.session_id)


class RateBucket(models.Model):
    """What is left of a rate of new sessions: of a tenant (``user`` is empty) or of one of its users."""

    tenant_id = models.BigIntegerField()
    user = models.CharField(max_length=255, blank=True, default="")
    tokens = models.FloatField()
    at = models.DateTimeField(help_text="When it was so; it has filled up since.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant_id", "user"], name="rate_bucket_of_a_user")]

    def __str__(self) -> str:
        return f"{self.tenant_id} {self.user}: {self.tokens:.1f}"


class AttemptCount(models.Model):
    """Refused attempts of one second that have no record of their own: a flood's, or of callers who are not known (tenant 0)."""

    second = models.DateTimeField()
    tenant_id = models.BigIntegerField(default=0)
    reason = models.CharField(max_length=32)
    count = models.IntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["second", "tenant_id", "reason"], name="attempts_of_a_second")]
        indexes = [models.Index(fields=["tenant_id", "-second"], name="attempt_counts_of_a_tenant")]

    def __str__(self) -> str:
        return f"{self.count} {self.reason} at {self.second}"
