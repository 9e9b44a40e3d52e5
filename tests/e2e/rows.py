"""What tests put into the database and read from it."""

from uuid import UUID

from django.utils import timezone

from sessions_app.models import Backend, Node, Session, SessionEvent, Slot
from sessions_app.services import nodes, tokens
from tenants.models import Tenant
from tests.e2e.server import wait_until


def new_token(tenant: Tenant, user: str = "ann") -> str:
    return tokens.issue_connect_token(tenant_id=tenant.pk, user=user, now=timezone.now()).token


def backend_of(tenant: Tenant) -> Backend:
    return Backend.objects.get(access__tenant=tenant)


def record(session_id: UUID | str) -> Session:
    return Session.objects.get(pk=session_id)


def over(session_id: UUID | str, seconds: float = 10.0) -> Session:
    """Wait for the session's end and return its record."""
    wait_until(lambda: Session.objects.filter(pk=session_id, ended_at__isnull=False).exists(), seconds, "the session's end")
    return record(session_id)


def nobody_else_is_up(seconds: float = 20.0) -> None:
    """Wait until a node that another test killed is no more taken for one that could go on with the sessions of one that stops."""
    newest = Node.objects.latest("started_at").pk
    wait_until(lambda: not nodes.others_up(node_id=newest), seconds, "the end of the leases of nodes that were killed")


def states(session_id: UUID | str) -> list[str]:
    return list(SessionEvent.objects.filter(session_id=session_id).order_by("seq", "id").values_list("new", flat=True))


def slots(tenant: Tenant) -> int:
    return Slot.objects.filter(tenant_id=tenant.pk).count()
