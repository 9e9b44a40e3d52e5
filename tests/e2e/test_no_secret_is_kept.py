"""After real use, neither the logs nor any row hold a token, a key, a secret or what was said."""

import base64
import json
import random
from collections.abc import Callable

from django.db import connection

from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import backend_of, new_token
from tests.e2e.server import Server, manage
from tests.e2e.visitor import PASSWORD, Visitor

SECRET = "the-backends-own-password-4711"


def test_no_row_and_no_line_holds_a_credential_or_audio(
    server: Server, admin: Visitor, dial: Callable[..., Call], new_tenant: Callable[..., Tenant]
) -> None:
    tenant = new_tenant(backend={})
    manage("set_backend", backend_of(tenant).name, f"secrets={json.dumps({'api_key': SECRET})}")
    key = manage("issue_api_key", tenant.slug).strip()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    answer = server.request("POST", "/api/v1/connect-tokens", headers=headers, body=b'{"user": "ann"}')
    bought, mistaken, spoiled = json.loads(answer[2])["token"], new_token(tenant), new_token(tenant)[:-4]

    audio = [random.Random(number).randbytes(960) for number in range(10)]
    call = dial(token=bought)
    call.start()
    assert call.exchange(audio) == audio
    call.say(audio[0][:-1])
    call.message("error")
    call.stop()
    # What goes wrong is what is logged: a spent token, a bad one, one in the wrong place, and a failing backend.
    dial(token=bought).refused()
    dial(token=spoiled).message("session.rejected")
    dial(query=f"?token={mistaken}").message("session.rejected")
    server.request("GET", f"/talk/?token={mistaken}", headers={"Authorization": f"Bearer {key}"})
    server.request("GET", f"/nowhere/{mistaken}/{key}")
    manage("set_backend", backend_of(tenant).name, 'options={"die_after_ms": 100}')
    dying = dial(tenant)
    dying.start()
    dying.message("session.ended")
    page = admin.get(f"/admin/sessions_app/backend/{backend_of(tenant).pk}/change/")

    hidden = [bought, mistaken, spoiled, key, SECRET, PASSWORD]
    hidden += [each.split(".")[2] for each in (bought, mistaken)]
    hidden += [key.rpartition("_")[2]]
    for said in audio:
        hidden += [said.hex(), base64.b64encode(said).decode()]
    places = {"the logs": server.log.read_text(encoding="utf-8"), "the rows": _all_rows(), "the admin's page": page}
    assert "session active" in places["the logs"], "the logs were read"
    assert tenant.slug in places["the rows"], "the rows were read"
    assert [(place, text[:12]) for place, content in places.items() for text in hidden if text in content] == []


def _all_rows() -> str:
    """Every row of every table as text; bytes are in hexadecimal."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [row[0] for row in cursor.fetchall()]
        lines: list[str] = []
        for table in tables:
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            lines += [row[0] for row in cursor.fetchall()]
    return "\n".join(lines)
