"""The talk page and its pass are for members of a tenant; for everybody else they are not there."""

import json
from datetime import UTC, datetime

from django.contrib.auth.models import User
from django.test import Client

from sessions_app.domain.states import Reason
from sessions_app.services import tokens
from tenants import services
from tenants.models import Tenant
from tests import world
from tests.views.conftest import text


def test_a_stranger_is_sent_to_the_login_and_comes_back(stranger: Client) -> None:
    response = stranger.get("/talk/")
    assert (response.status_code, response["Location"]) == (302, "/accounts/login/?next=/talk/")
    assert "Sign in" in text(stranger, response["Location"])


def test_the_first_page_is_the_talk_page(stranger: Client) -> None:
    assert stranger.get("/")["Location"] == "/talk/"


def test_an_outsider_sees_no_talk_page_even_as_staff(outsider: Client, staff: Client) -> None:
    assert outsider.get("/talk/").status_code == 404
    assert staff.get("/talk/").status_code == 404


def test_a_member_sees_the_page_of_the_one_tenant_without_a_choice(member: Client) -> None:
    page = text(member, "/talk/")
    assert "for Acme" in page
    assert '<select id="tenant"' not in page


def test_a_member_of_several_tenants_may_choose_among_them_and_no_others(member: Client) -> None:
    services.add_member(tenant=world.make_tenant("birch"), user=User.objects.get(username="ann"))
    world.make_tenant("cedar")
    page = text(member, "/talk/")
    assert '<option value="acme">' in page
    assert '<option value="birch">' in page
    assert "cedar" not in page


def test_the_page_knows_a_sentence_for_every_reason_and_holds_no_token(member: Client) -> None:
    page = text(member, "/talk/")
    reasons = json.loads(page.split('<script id="reasons" type="application/json">')[1].split("</script>")[0])
    assert set(reasons) == set(Reason)
    assert all(reasons.values())
    assert "eyJ" not in page


def test_nothing_on_the_page_runs_but_files_of_our_own(member: Client) -> None:
    response = member.get("/talk/")
    policy = response["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "connect-src 'self' ws://testserver;" in policy
    assert "unsafe" not in policy
    page = response.content.decode()
    assert "style=" not in page
    assert "onclick" not in page
    assert page.count("<script") == page.count('type="application/json"') + page.count('type="module"')


def test_a_member_gets_a_pass_for_the_tenant(member: Client, acme: Tenant) -> None:
    response = member.post("/talk/token/", {"tenant": "acme"})
    assert response.status_code == 201
    assert response["Cache-Control"].count("no-store") == 1
    answer = response.json()
    assert answer["ws_url"] == "ws://testserver/ws/voice/"
    claims = tokens.read_connect_token(answer["token"], now=datetime.now(UTC))
    assert (claims.tenant_id, claims.user) == (acme.pk, "ann")


def test_each_pass_is_for_another_session(member: Client) -> None:
    passes = [tokens.read_connect_token(member.post("/talk/token/", {"tenant": "acme"}).json()["token"]) for _ in range(2)]
    assert passes[0].session_id != passes[1].session_id


def test_no_pass_for_a_tenant_of_others_for_one_that_is_not_there_or_for_outsiders(member: Client, outsider: Client) -> None:
    world.make_tenant("birch")
    refused = [
        member.post("/talk/token/", {"tenant": "birch"}),
        member.post("/talk/token/", {"tenant": "nobody"}),
        outsider.post("/talk/token/", {"tenant": "acme"}),
        outsider.post("/talk/token/"),
    ]
    assert {response.status_code for response in refused} == {404}
    assert {response.content for response in refused} == {refused[0].content}


def test_a_pass_asked_for_after_signing_out_is_refused_in_words(stranger: Client) -> None:
    response = stranger.post("/talk/token/", {"tenant": "acme"})
    assert response.status_code == 401
    assert response.json()["code"] == "authentication_failed"


def test_another_site_cannot_ask_for_a_pass(member: Client) -> None:
    careful = Client(enforce_csrf_checks=True)
    careful.cookies = member.cookies
    assert careful.post("/talk/token/", {"tenant": "acme"}).status_code == 403
    assert member.get("/talk/token/").status_code == 405
