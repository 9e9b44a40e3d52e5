"""An edit locks a tenant's rows without their keys: whoever inserts what refers to the tenant, as admission does, never waits for it."""

import threading

import pytest
from django.db import OperationalError, connection, transaction

from tenants import services
from tenants.models import ApiKey, Tenant


@pytest.mark.usefixtures("committed_db")
def test_a_key_is_issued_while_status_and_quota_are_being_changed() -> None:
    acme = services.create_tenant(slug="acme")
    failures: list[OperationalError] = []

    def issue() -> None:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '2s'")
                services.issue_api_key(tenant=acme)
        except OperationalError as error:
            failures.append(error)
        finally:
            connection.close()

    with transaction.atomic():
        services.set_status(tenant=acme, status=Tenant.Status.SUSPENDED)
        services.set_quota(slug="acme", values={"weight": "2"})
        other = threading.Thread(target=issue)
        other.start()
        other.join()
    assert failures == []
    assert ApiKey.objects.count() == 1
