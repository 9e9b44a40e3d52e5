import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from tenants import services

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("staff", "member", "page"), [(True, False, "/ops/sessions/"), (True, True, "/talk/"), (False, True, "/talk/")])
def test_staff_without_a_tenant_see_the_history_and_everybody_else_the_talk_page(
    client: Client, staff: bool, member: bool, page: str
) -> None:
    user = get_user_model().objects.create_user("ann", is_staff=staff)
    if member:
        services.add_member(tenant=services.create_tenant(slug="acme"), user=user)
    client.force_login(user)
    assert client.get("/", follow=True).redirect_chain == [(page, 302)]


def test_a_stranger_is_sent_to_the_login(client: Client) -> None:
    assert client.get("/", follow=True).redirect_chain[-1] == ("/accounts/login/?next=/talk/", 302)
