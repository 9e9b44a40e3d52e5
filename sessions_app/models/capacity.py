"""Counters of what is in use, nodes with their heartbeats, and the record of every change of a limit."""

from django.db import models


class Capacity(models.Model):
    """Sessions in use in one scope. Moves only in the transaction that moves a session's state.

    The platform has no counter of its own: it is the sum over the backends, so that without a platform cap no row is shared by all.
    """

    scope = models.CharField(max_length=10, choices=[("tenant", "tenant"), ("backend", "backend")])
    ref = models.BigIntegerField(help_text="Id of the tenant or backend.")
    active = models.IntegerField(default=0)
    queued = models.IntegerField(db_default=0, help_text="Sessions of the tenant that wait.")

    class Meta:
        verbose_name_plural = "capacity"
        constraints = [
            models.UniqueConstraint(fields=["scope", "ref"], name="capacity_of_a_scope"),
            models.CheckConstraint(condition=models.Q(active__gte=0), name="capacity_is_never_negative"),
            models.CheckConstraint(condition=models.Q(queued__gte=0), name="queue_is_never_negative"),
        ]
        indexes = [models.Index(fields=["ref"], name="tenants_that_wait", condition=models.Q(queued__gt=0))]

    def __str__(self) -> str:
        return f"{self.scope} {self.ref}: {self.active}"


class Node(models.Model):
    """One server process. Its heartbeat is the lease of every session that it carries."""

    class State(models.TextChoices):
        UP = "up"
        DRAINING = "draining"
        STOPPED = "stopped"
        LOST = "lost"

    id = models.UUIDField(primary_key=True, editable=False)
    name = models.CharField(max_length=200)
    pid = models.IntegerField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.UP)
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["heartbeat_at"], name="nodes_by_heartbeat")]

    def __str__(self) -> str:
        return self.name


class Claim(models.Model):
    """Who does a job that one process at a time should do, until when: taken by a compare-and-set, no lock is held."""

    name = models.CharField(max_length=50, primary_key=True)
    holder = models.CharField(max_length=100, blank=True, default="")
    until = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True, help_text="When it was last done.")
    steady_since = models.DateTimeField(null=True, help_text="Since when it has been done without a gap.")

    def __str__(self) -> str:
        return self.name


class LimitChange(models.Model):
    """One change of a limit, recorded by trigger with a sequence number taken under the scope's lock. Never edited.

    A record of scope ``access`` tells only that from its number on it is recorded who may use which backend.
    """

    seq = models.BigIntegerField()
    scope = models.CharField(max_length=10)
    ref = models.BigIntegerField()
    old = models.JSONField(null=True)
    new = models.JSONField(null=True)
    at = models.DateTimeField()
    db_user = models.CharField(max_length=100)
    source = models.CharField(max_length=63, db_default="", help_text="The table that was changed.")
    actor = models.CharField(max_length=150, db_default="", help_text="Who did it, where the door knew.")
    note = models.CharField(max_length=300, db_default="", help_text="Why, where it was said.")

    class Meta:
        indexes = [
            models.Index(fields=["seq"], name="limit_changes_in_order"),
            models.Index(fields=["scope", "ref", "seq"], name="limit_changes_of_a_scope"),
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.ref} at {self.seq}"


class OpeningBalance(models.Model):
    """Slots in use in one scope at the sequence number up to which history was pruned; a replay begins with it.

    The rows of one prune replace those of the one before. ``ref`` is the id of the tenant or backend (0: the platform), ``user`` is
    empty but for the scope ``user``, whose ``ref`` is the tenant. A row of scope ``platform`` is always there, and tells the horizon.
    """

    seq = models.BigIntegerField(help_text="Events up to this one are accounted for here.")
    scope = models.CharField(max_length=10)
    ref = models.BigIntegerField(default=0)
    user = models.CharField(max_length=255, blank=True, default="")
    active = models.IntegerField()
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["scope", "ref", "user"], name="opening_balance_of_a_scope"),
            models.CheckConstraint(condition=models.Q(active__gte=0), name="opening_balance_is_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.ref} {self.user}: {self.active} at {self.seq}"
