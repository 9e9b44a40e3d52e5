"""Reserved slots: on a backend that the tenant may use, and in sum never above its cap, whoever edits, and at once."""

from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.urls import reverse

from sessions_app.models import Backend, BackendAccess
from sessions_app.services import configuration
from tenants import extensions, services
from tenants.exceptions import InvalidQuota
from tenants.models import Quota
from tests.tenants.test_admin_edits_tenants import ADD, form, page
from tests.views.test_admin_edits_limits_and_only_shows_records import form as backend_form
from tests.world import make_backend, make_tenant

TOO_MANY = "Reservations on backend loopback would be 11 slots, more than its cap of 10."


@pytest.fixture
def admin_client(committed_db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("olga"))
    return client


def refusal(*words: str) -> str:
    with pytest.raises(CommandError) as caught:
        call_command(*words, stdout=StringIO())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reserved() -> list[int]:
    return list(Quota.objects.order_by("tenant__slug").values_list("reserved", flat=True))


def test_set_quota_refuses_a_sum_above_the_cap(committed_db: None) -> None:
    make_backend(cap=10)
    make_tenant("acme", reserved=4)
    make_tenant("birch")
    assert refusal("set_quota", "birch", "reserved=7") == TOO_MANY
    call_command("set_quota", "birch", "reserved=6", stdout=StringIO())
    assert reserved() == [4, 6]
    # What has nothing to do with it can be edited.
    call_command("set_quota", "birch", "weight=2", stdout=StringIO())


def test_set_backend_refuses_a_cap_below_what_is_reserved(committed_db: None) -> None:
    make_backend(cap=20)
    make_tenant("acme", reserved=11)
    assert refusal("set_backend", "loopback", "cap=10") == TOO_MANY
    call_command("set_backend", "loopback", "cap=11", stdout=StringIO())
    call_command("set_backend", "loopback", "cap=", stdout=StringIO())
    assert Backend.objects.get().cap is None


def test_the_forms_refuse_with_the_same_sentence(admin_client: Client) -> None:
    backend = make_backend(cap=10)
    acme, birch = make_tenant("acme", reserved=4), make_tenant("birch")
    response = admin_client.post(page(birch), form(birch, slug="birch") | {"quota-0-reserved": "7"})
    assert response.status_code == 200
    assert TOO_MANY in response.content.decode()
    response = admin_client.post(reverse(ADD), form(slug="new") | {"quota-0-reserved": "7"})
    assert TOO_MANY in response.content.decode()
    address = reverse("admin:sessions_app_backend_change", args=[backend.pk])
    response = admin_client.post(address, backend_form(cap="3"))
    assert "Reservations on backend loopback would be 4 slots, more than its cap of 3." in response.content.decode()
    assert reserved() == [4, 0]
    assert Backend.objects.get().cap == 10
    assert admin_client.post(page(acme), form(acme, **{"quota-0-reserved": "10"})).status_code == 302
    assert reserved() == [10, 0]


def test_what_the_trigger_alone_refuses_is_a_sentence_too(admin_client: Client) -> None:
    """Nobody validates here: as when somebody wrote past the services in between."""
    backend = make_backend(cap=10)
    acme = make_tenant("acme")
    extensions.unregister_quota_validator(configuration.check_reservation)
    try:
        with pytest.raises(InvalidQuota, match=TOO_MANY):
            services.set_quota(slug="acme", values={"reserved": "11"})
        response = admin_client.post(page(acme), form(acme, **{"quota-0-reserved": "11"}), follow=True)
    finally:
        extensions.register_quota_validator(configuration.check_reservation)
    assert response.redirect_chain == [(page(acme), 302)]
    assert f"Nothing was saved. {TOO_MANY}" in response.content.decode()
    assert reserved() == [0]
    assert backend.pk


def test_the_backend_of_a_reservation_is_one_that_the_tenant_may_use(committed_db: None) -> None:
    make_backend("alder")
    beech = make_backend("beech")
    acme = make_tenant()
    assert refusal("set_quota", "acme", "reserved_backend=cedar") == (
        "There is no backend 'cedar' to reserve slots on; there are: alder, beech."
    )
    assert refusal("set_quota", "acme", "reserved_backend=not a slug").startswith("reserved_backend: ")
    BackendAccess.objects.create(tenant=acme, backend=beech)
    assert refusal("set_quota", "acme", "reserved=1", "reserved_backend=alder") == (
        "The tenant may not use backend alder, so it can reserve no slots there."
    )
    call_command("set_quota", "acme", "reserved=1", "reserved_backend=beech", stdout=StringIO())
    call_command("set_quota", "acme", "reserved_backend=", stdout=StringIO())
    assert Quota.objects.get().reserved_backend == ""


def test_a_backend_that_quotas_name_keeps_its_name_and_is_not_deleted(admin_client: Client) -> None:
    backend = make_backend("loopback")
    make_tenant("acme", reserved=1, reserved_backend="loopback")
    address = reverse("admin:sessions_app_backend_change", args=[backend.pk])
    told = admin_client.post(address, backend_form(name="other")).content.decode()
    assert "Quotas name this backend for their reserved slots: acme. Change them first." in told
    assert (
        "Reserved slots of acme on loopback"
        in admin_client.get(reverse("admin:sessions_app_backend_delete", args=[backend.pk])).content.decode()
    )
    assert Backend.objects.get().name == "loopback"


def test_without_a_backend_or_a_cap_there_is_nothing_to_exceed(committed_db: None) -> None:
    make_tenant("acme")
    services.set_quota(slug="acme", values={"reserved": "1000"})
    backend = make_backend("free", cap=None)
    services.set_quota(slug="acme", values={"reserved": "2000"})
    with pytest.raises(ValidationError, match="would be 2000 slots"):
        configuration.set_backend(name="free", values={"cap": "5"})
    assert Backend.objects.get(pk=backend.pk).cap is None


def test_of_many_at_once_only_as_many_reserve_as_fit(committed_db: None) -> None:
    make_backend(cap=10)
    slugs = [f"tenant-{number}" for number in range(8)]
    for slug in slugs:
        make_tenant(slug)

    def raise_it(slug: str) -> Any:
        try:
            return services.set_quota(slug=slug, values={"reserved": "3"})
        except InvalidQuota as error:
            return str(error)
        finally:
            connection.close()

    def cap(number: int) -> Any:
        try:
            return configuration.set_backend(name="loopback", values={"cap": str(number)})
        except ValidationError as error:
            return error.messages[0]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(raise_it, slug) for slug in slugs]
        caps = [threads.submit(cap, number) for number in (9, 8, 9)]
        told = [each.result(30) for each in (*answers, *caps)]
    assert all("more than its cap of" in each for each in told if isinstance(each, str))
    most = Backend.objects.get().cap
    assert most is not None
    assert sum(reserved()) <= most


def test_a_form_and_a_command_do_not_lock_each_other_out(admin_client: Client) -> None:
    """Both lock the tenant's row, the quota's, then the ledger's locks: whoever comes second waits, and nobody is killed for it."""
    make_backend(cap=1000)
    acme = make_tenant()
    olga = User.objects.get()

    def by_form(number: int) -> int:
        client = Client()
        client.force_login(olga)
        try:
            values = form(acme, name=f"Acme {number}", **{"quota-0-reserved": str(number)})
            return client.post(page(acme), values).status_code
        finally:
            connection.close()

    def by_command(number: int) -> int:
        try:
            services.set_quota(slug="acme", values={"reserved": str(number)})
            return 302
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as threads:
        forms = [threads.submit(by_form, number) for number in range(12)]
        commands = [threads.submit(by_command, number) for number in range(100, 130)]
        assert {each.result(60) for each in (*forms, *commands)} == {302}
