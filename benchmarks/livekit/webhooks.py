"""How long the platform takes to say that a webhook is stored: signed as LiveKit signs, one after another on one connection."""

import base64
import hashlib
import json
import time
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Final

import jwt
import uuid_utils.compat

from benchmarks.harness.errors import BenchmarkError

TOKEN_S: Final = 300
TIMEOUT_S: Final = 5.0


def answer_times_ms(*, port: int, path: str, key: str, secret: str, count: int) -> list[float]:
    """Send so many events, each about a room of its own that is no session's, and return how long each answer took.

    Raises:
        BenchmarkError: One was not stored.
    """
    times: list[float] = []
    server = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    for number in range(count):
        body = json.dumps(
            {"event": "participant_joined", "id": f"EV_bench{number}", "room": {"name": f"voice-{uuid_utils.compat.uuid7()}"}}
        )
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        token = jwt.encode({"iss": key, "exp": int(time.time()) + TOKEN_S, "sha256": digest}, secret, algorithm="HS256")
        began = time.monotonic()
        server.request("POST", path, body, {"Authorization": token, "Content-Type": "application/webhook+json"})
        answer = server.getresponse()
        answer.read()
        times.append(1000 * (time.monotonic() - began))
        if answer.status != HTTPStatus.OK:
            raise BenchmarkError(f"A webhook was answered {answer.status}.")
    server.close()
    return times
