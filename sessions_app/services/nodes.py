"""A node's row: registered, kept alive by its heartbeat, taken out. Times are written by the database's clock."""

import uuid

from django.conf import settings
from django.db import connection

from sessions_app.models import Node


def register(*, node_id: uuid.UUID, name: str, pid: int) -> None:
    """Write the node's row, with a first heartbeat."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sessions_app_node (id, name, pid, state, started_at, heartbeat_at)"
            " VALUES (%s, %s, %s, %s, clock_timestamp(), clock_timestamp())"
            " ON CONFLICT (id) DO UPDATE SET heartbeat_at = clock_timestamp()",
            (node_id, name[:200], pid, Node.State.UP),
        )


def beat(*, node_id: uuid.UUID) -> bool:
    """Write one heartbeat; False where the node was taken for lost meanwhile, so that its sessions may be somebody else's."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE sessions_app_node SET heartbeat_at = clock_timestamp() WHERE id = %s AND state IN (%s, %s)",
            (node_id, Node.State.UP, Node.State.DRAINING),
        )
        return bool(cursor.rowcount)


def set_state(*, node_id: uuid.UUID, state: Node.State) -> None:
    """Say that a node drains or has stopped."""
    Node.objects.filter(pk=node_id).update(state=state)


def others_up(*, node_id: uuid.UUID) -> bool:
    """Whether any other node is up, to take over what this one has."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM sessions_app_node WHERE id <> %s AND state = %s"
            " AND heartbeat_at > clock_timestamp() - make_interval(secs => %s))",
            (node_id, Node.State.UP, settings.VOICE_LEASE_S),
        )
        return bool(cursor.fetchone()[0])
