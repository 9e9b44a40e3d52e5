"""By which voice service somebody talks is their choice, where their tenant may use several; and the browser may go to no other place."""

import json
from typing import Any

from django.contrib.auth.models import User
from django.test import Client

from sessions_app.models import BackendAccess
from tenants import services
from tenants.models import Tenant
from tests import world
from tests.views.conftest import text

ROOMS: dict[str, Any] = {"provider": "nobody's", "transports": ["webrtc"]}


def ways(client: Client) -> Any:
    page = text(client, "/talk/")
    return json.loads(page.split('<script id="ways" type="application/json">')[1].split("</script>")[0])


def labels(client: Client, tenant: str = "acme") -> list[str]:
    return [each["label"] for each in ways(client)[tenant]]


def test_with_one_backend_there_is_one(member: Client) -> None:
    world.make_backend("loopback")
    assert ways(member) == {"acme": [{"label": "loopback (WebSocket)", "transport": "websocket", "backend": "loopback"}]}


def test_each_backend_is_one_and_where_several_serve_alike_the_platform_may_choose(member: Client) -> None:
    for name in ("birch", "alder"):
        world.make_backend(name)
    world.make_backend("rooms", **ROOMS)
    assert labels(member) == ["Any (WebSocket)", "alder (WebSocket)", "birch (WebSocket)", "rooms (WebRTC)"]
    assert ways(member)["acme"][0] == {"label": "Any (WebSocket)", "transport": "websocket", "backend": ""}


def test_what_others_use_is_not_offered(member: Client, acme: Tenant) -> None:
    for name in ("ours", "theirs"):
        backend = world.make_backend(name)
        BackendAccess.objects.create(tenant=acme if name == "ours" else world.make_tenant("birch"), backend=backend)
    assert labels(member) == ["ours (WebSocket)"]


def test_each_tenant_of_a_member_has_its_own(member: Client, acme: Tenant) -> None:
    birch = world.make_tenant("birch")
    services.add_member(tenant=birch, user=User.objects.get(username="ann"))
    BackendAccess.objects.create(tenant=acme, backend=world.make_backend("loopback"))
    BackendAccess.objects.create(tenant=birch, backend=world.make_backend("rooms", **ROOMS))
    assert (labels(member), labels(member, "birch")) == (["loopback (WebSocket)"], ["rooms (WebRTC)"])


def test_what_takes_nobody_new_is_not_offered(member: Client) -> None:
    world.make_backend("asleep", enabled=False)
    world.make_backend("leaving", draining=True)
    assert labels(member) == ["Any"]
