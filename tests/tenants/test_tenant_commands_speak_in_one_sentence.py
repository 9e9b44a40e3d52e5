"""``create_tenant``, ``set_quota`` and ``issue_api_key``, as scripts use them."""

import io

import pytest
from django.core.management import CommandError, call_command, load_command_class

from tenants import services
from tenants.models import Quota, Tenant

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def refusal(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_create_tenant_creates_it_with_a_quota() -> None:
    assert run("create_tenant", "acme", "--name", "Acme Ltd") == "Created tenant acme (Acme Ltd).\n"
    assert Quota.objects.get(tenant__slug="acme").max_concurrent_sessions == 10


def test_create_tenant_refuses_a_taken_slug_and_a_wrong_one() -> None:
    run("create_tenant", "acme")
    assert refusal("create_tenant", "acme") == "There is a tenant with the slug 'acme' already."
    assert refusal("create_tenant", "Not A Slug").startswith("A slug has lower-case letters")


def test_set_quota_changes_and_prints_the_quota_in_force() -> None:
    run("create_tenant", "acme")
    printed = run("set_quota", "acme", "max_concurrent_sessions=2", "idle_timeout_s=").splitlines()
    assert printed[0] == "max_concurrent_sessions=2"
    assert "idle_timeout_s=" in printed
    assert len(printed) == 14
    quota = Quota.objects.get()
    assert (quota.max_concurrent_sessions, quota.idle_timeout_s) == (2, None)


def test_set_quota_refuses_what_it_does_not_understand() -> None:
    run("create_tenant", "acme")
    assert "the fields are max_concurrent_sessions, max_sessions_per_user" in refusal("set_quota", "acme", "sessions=2")
    assert refusal("set_quota", "acme", "weight").startswith("'weight' is not FIELD=VALUE; the fields are")
    assert refusal("set_quota", "acme", "weight=2", "weight=3") == "weight is given twice."
    assert refusal("set_quota", "acme", "weight=x") == "weight must be a whole number from 1 to 2147483647, not 'x'."
    assert refusal("set_quota", "nobody", "weight=2") == "There is no tenant with the slug 'nobody'."
    assert refusal("set_quota", "acme") == "Error: the following arguments are required: FIELD=VALUE"


def test_issue_api_key_prints_the_key_alone() -> None:
    run("create_tenant", "acme")
    printed = run("issue_api_key", "acme", "--name", "web server")
    key = printed.removesuffix("\n")
    assert "\n" not in key
    assert services.authenticate_api_key(key) == Tenant.objects.get()
    assert Tenant.objects.get().api_keys.get().name == "web server"


def test_issue_api_key_refuses_an_unknown_tenant_and_a_long_name() -> None:
    run("create_tenant", "acme")
    assert refusal("issue_api_key", "nobody") == "There is no tenant with the slug 'nobody'."
    assert refusal("issue_api_key", "acme", "--name", "n" * 101).startswith("name: ")


def test_the_help_of_set_quota_lists_every_field_with_its_default() -> None:
    text = load_command_class("tenants", "set_quota").create_parser("manage.py", "set_quota").format_help()
    for field in services.quota_fields().values():
        assert f"\n  {field.name}={'' if field.default is None else field.default} " in text
