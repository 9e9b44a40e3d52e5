"""After a run that does everything, neither a log nor a row holds a token, a key, a secret or what was said."""

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connection
from websockets.exceptions import ConnectionClosed

from sessions_app.models import Claim
from sessions_app.selectors import platform_health
from tenants.models import Tenant
from tests.e2e.client import Call
from tests.e2e.rows import backend_of, new_token, over
from tests.e2e.server import Server, manage, wait_until
from tests.e2e.visitor import PASSWORD, Visitor
from tests.platform.instance import PROJECT
from tests.world import database_url
from voiceplatform import processes

SECRET = "the-backends-own-password-4711"
EDITED = "the-password-that-an-admin-typed-0815"
# What was said: bytes that nothing else is made of.
SAID = bytes(range(0x81, 0xC1, 2)) * 30
PIECE = SAID[:24]  # a part of it gives it away too
MESSAGES = ["{", "[" * 5000, '{"type": 7}', '{"type":"session.start","metadata":{"a":"\\u0000"}}', '{"type":"ping","t":{}}']


@pytest.fixture
def celery(shared_db: None, tmp_path: Path) -> Iterator[Path]:
    """A worker with its own beat; returns the file that it writes to."""
    log = tmp_path / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "voiceplatform", "worker", "--beat", "--scheduler", "celery.beat:Scheduler"]
    command += ["--concurrency", "1", "--without-gossip", "--without-mingle", "--loglevel", "DEBUG"]
    with log.open("wb") as output:
        process = processes.spawn(command, environment={**os.environ, "DATABASE_URL": database_url()}, folder=PROJECT, output=output)
    yield log
    processes.end(process)


def test_no_row_and_no_line_holds_a_credential_or_audio(
    server: Server, celery: Path, admin: Visitor, dial: Callable[..., Call], new_tenant: Callable[..., Tenant]
) -> None:
    tenant = new_tenant(backend={}, max_concurrent_sessions=3)
    manage("set_backend", backend_of(tenant).name, f"secrets={json.dumps({'api_key': SECRET})}")
    key = manage("issue_api_key", tenant.slug).strip()
    tokens = _talk_and_come_back(server, dial, tenant, key)
    tokens += _be_refused(server, dial, tenant, key)
    tokens += _be_hostile(dial, tenant)
    _let_the_backend_fail(dial, tenant)
    pages = _administer(admin, tenant)
    wait_until(lambda: Claim.objects.filter(name=platform_health.BEAT).exists(), 30, "a task of beat's")
    wait_until(lambda: Claim.objects.filter(name=platform_health.WORKER).exists(), 30, "the worker's work")

    places = {"the server's log": server.log.read_bytes(), "the worker's log": celery.read_bytes(), "the rows": _all_rows(), "pages": pages}
    postgres = Path(os.environ["VOICE_DATA_DIR"], "postgres.log")
    places["PostgreSQL's log"] = postgres.read_bytes() if postgres.exists() else b""
    assert b"session active" in places["the server's log"]
    assert b"sessions_app.tasks.probe" in places["the worker's log"]
    assert tenant.slug.encode() in places["the rows"]
    hidden = _hidden(tokens, key)
    assert [(place, text[:12]) for place, content in places.items() for text in hidden if text in content] == []


def _talk_and_come_back(server: Server, dial: Callable[..., Call], tenant: Tenant, key: str) -> list[str]:
    """A bought token, a call, a drop, a way back by two resume tokens, a stale one; return every token."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    bought = json.loads(server.request("POST", "/api/v1/connect-tokens", headers=headers, body=b'{"user": "ann"}')[2])["token"]
    call = dial(token=bought)
    first = call.start(metadata={"shop": "14"})["resume_token"]
    assert call.exchange([SAID]) == [SAID]
    call.drop()
    call = dial(token=first)
    resumed = call.message("session.resumed")
    assert call.exchange([SAID]) == [SAID]

    def stale() -> bool:
        """Good until the ledger has heard that the next connection has spoken."""
        again = dial(token=first)
        said = again.hear()
        assert isinstance(said, dict)
        if said["type"] == "session.rejected":
            return True
        resumed.update(said)
        again.say(SAID)
        return False

    wait_until(stale)
    call = dial(token=resumed["resume_token"])
    last = call.message("session.resumed")
    call.stop()
    over(last["session_id"])
    # Both are spent now.
    for spent in (bought, last["resume_token"]):
        spent_call = dial(token=spent)
        if spent == bought:
            spent_call.say({"type": "session.start"})
        assert spent_call.message("session.rejected")["code"] == "authentication_failed"
    return [bought, first, resumed["resume_token"], last["resume_token"]]


def _be_refused(server: Server, dial: Callable[..., Call], tenant: Tenant, key: str) -> list[str]:
    """Bad and misplaced tokens, no room, a wrong key; return every token."""
    mistaken, whole, late = (new_token(tenant) for _ in range(3))
    spoiled = whole[:-4]
    dial(token=spoiled).message("session.rejected")
    dial(query=f"?token={mistaken}").message("session.rejected")
    server.request("GET", f"/talk/?token={mistaken}", headers={"Authorization": f"Bearer {key}"})
    server.request("GET", f"/nowhere/{mistaken}/{key}")
    server.request("POST", "/api/v1/connect-tokens", headers={"Authorization": f"Bearer {key}"}, body=key.encode())
    server.request("POST", "/api/v1/connect-tokens", headers={"Authorization": f"Bearer {key[:-1]}"}, body=b"{}")
    manage("set_quota", tenant.slug, "max_concurrent_sessions=0")
    dial(token=late).refused()
    manage("set_quota", tenant.slug, "max_concurrent_sessions=3")
    return [mistaken, spoiled, late]


def _be_hostile(dial: Callable[..., Call], tenant: Tenant) -> list[str]:
    """What is said wrongly holds secrets, too; return the tokens."""
    token = new_token(tenant)
    call = dial(token=token)
    resume = call.start()["resume_token"]
    wrong: list[str | bytes] = [*MESSAGES, json.dumps({"type": token, token: token}), SAID[:-1], SAID.hex()]
    for message in wrong:
        call.say(message)
        call.message("error")
    call.say(SAID * 69)  # more than 64 KiB
    with pytest.raises((AssertionError, ConnectionClosed)):  # by the server's own limit or by ours
        call.message("session.ended")
    return [token, resume]


def _let_the_backend_fail(dial: Callable[..., Call], tenant: Tenant) -> None:
    name = backend_of(tenant).name
    for option in ("die_after_ms", "pipeline_error_after_ms", "absent_after_ms"):
        manage("set_backend", name, f"options={json.dumps({option: 50})}")
        call = dial(tenant, "bob")
        call.start()
        call.message("session.ended")
    wrong: tuple[dict[str, object], ...] = ({"fail_open": True, "fail_probe": True}, {"nonsense": 1})
    for options in wrong:
        _configure(tenant, options)
        dial(tenant, "bob").refused()
    _configure(tenant, {"fail_probe": True})


def _configure(tenant: Tenant, options: dict[str, object]) -> None:
    """Past the checks of forms and commands, which would refuse what makes a provider complain."""
    backend = backend_of(tenant)
    backend.options = options
    backend.save(update_fields=["options"])


def _administer(admin: Visitor, tenant: Tenant) -> bytes:
    """Edit secrets and limits by hand; return the pages that were shown, but for the one that shows a new key once."""
    backend, change = backend_of(tenant), f"/admin/sessions_app/backend/{backend_of(tenant).pk}/change/"
    pages = [admin.submit(change, "backend_form", {"cap": "7", "secrets": json.dumps({"api_key": EDITED})})]
    pages += [admin.get(path) for path in (change, f"/admin/sessions_app/backend/{backend.pk}/history/", "/ops/sessions/", "/admin/")]
    pages.append(admin.submit(f"/admin/tenants/tenant/{tenant.pk}/change/", "tenant_form", {"name": "Renamed"}))
    return "".join(pages).encode()


def _hidden(tokens: list[str], key: str) -> list[bytes]:
    """Everything that must be found nowhere, and the parts and spellings of it that give it away."""
    words = [*tokens, *(each.split(".")[2] for each in tokens), key, key.split("_", 2)[2], SECRET, EDITED, PASSWORD]
    words += [password for name in ("DATABASE_URL", "VALKEY_URL") if len(password := urlsplit(os.environ[name]).password or "") >= 16]
    words += [os.environ["SECRET_KEY"], *os.environ["VOICE_SECRET_KEYS"].split(",")]
    words += [base64.b64encode(each.encode()).decode().rstrip("=") for each in (SECRET, EDITED, key)]
    spelled = [PIECE.hex(), PIECE.hex().upper(), repr(PIECE)[2:-1], PIECE.decode("latin-1")]
    # Where a piece of it begins within a group of three bytes, its base64 reads otherwise.
    spelled += [base64.b64encode(SAID[shift : shift + 24]).decode() for shift in range(3)]
    return [PIECE, *(each.encode() for each in words + spelled)]


def _all_rows() -> bytes:
    """Every row of every table as text; bytes are in hexadecimal."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [row[0] for row in cursor.fetchall()]
        lines: list[str] = []
        for table in tables:
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            lines += [row[0] for row in cursor.fetchall()]
    return "\n".join(lines).encode()
