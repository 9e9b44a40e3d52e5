"""Attempts that no cap refuses: the tenant may not, or there is no backend that could."""

from collections.abc import Callable
from datetime import timedelta

from django.utils import timezone

from sessions_app.models import BackendHealth, Session
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import backend_of
from tests.e2e.server import manage, wait_until
from tests.e2e.visitor import Visitor


def test_a_suspended_tenant_is_refused_from_the_click_on(
    admin: Visitor, dial: Callable[..., Call], new_tenant: Callable[..., Tenant]
) -> None:
    tenant = new_tenant()
    path = f"/admin/tenants/tenant/{tenant.pk}/change/"
    live = dial(tenant)
    live.start()
    admin.submit(path, "tenant_form", {"status": "suspended"})
    refusal, code = dial(tenant, "bob").refused()
    assert (refusal["code"], code) == ("tenant_suspended", 4403)
    assert Session.objects.get(tenant=tenant, user="bob").reason == "tenant_suspended"
    live.stop()
    admin.submit(path, "tenant_form", {"status": "active"})
    dial(tenant, "bob").start()


def test_an_unhealthy_backend_is_not_chosen_until_it_answers_a_probe(dial: Callable[..., Call], new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(backend={"healthy": False})
    refusal, code = dial(tenant).refused()
    assert (refusal["code"], code) == ("backend_unhealthy", 4503)
    # As if the last probe were long ago: the server sends another one.
    health = BackendHealth.objects.filter(backend=backend_of(tenant))
    health.update(last_probe_at=timezone.now() - timedelta(minutes=1))
    wait_until(lambda: health.filter(status="healthy").exists(), 10, "a good probe")
    dial(tenant).start()


def test_a_backend_that_is_maintained_takes_nobody_new(dial: Callable[..., Call], new_tenant: Callable[..., Tenant]) -> None:
    tenant = new_tenant(backend={})
    live = dial(tenant)
    live.start()
    manage("set_backend", backend_of(tenant).name, "draining=true")
    refusal, code = dial(tenant).refused()
    assert (refusal["code"], code) == ("backend_draining", 4503)
    assert live.exchange([bytes(960)]) == [bytes(960)]
