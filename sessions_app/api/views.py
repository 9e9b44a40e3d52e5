"""The HTTP API for tenants' servers: they vouch for a user and get what the user's client connects with.

Owns: the checks of a request, in this order: method, key, rate, size, content. Refuses: cookies and browsers; the API key is the only
credential, so there is nothing for a foreign page to use.
Limits: the rate is counted in each process and is there to keep one key from taking a process for itself; quotas are the ledger's.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from datetime import UTC
from typing import Final

import msgspec
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from sessions_app.api.errors import ApiError, invalid_request
from sessions_app.domain.allowance import Allowance
from sessions_app.domain.states import MEANINGS, Reason
from sessions_app.services import tokens
from tenants.exceptions import InvalidApiKey
from tenants.models import Tenant
from tenants.services import authenticate_api_key

MAX_BODY_BYTES: Final = 8 * 1024
TOKENS_PER_S: Final = 500.0
TOKENS_AT_ONCE: Final = 1000.0
MAX_KEYS: Final = 1000  # that are counted at a time; the one that was quiet the longest is forgotten


class ConnectTokenRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who shall be let in."""

    user: str


_decoder: Final = msgspec.json.Decoder(ConnectTokenRequest)


class _Rates:
    """One allowance for each key, for the threads of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._allowances: OrderedDict[bytes, Allowance] = OrderedDict()

    def take(self, key: str) -> bool:
        name = hashlib.sha256(key.encode()).digest()
        with self._lock:
            allowance = self._allowances.setdefault(name, Allowance(rate=TOKENS_PER_S, burst=TOKENS_AT_ONCE))
            self._allowances.move_to_end(name)
            if len(self._allowances) > MAX_KEYS:
                self._allowances.popitem(last=False)
            return allowance.take(time.monotonic())


_rates = _Rates()


@csrf_exempt
def connect_tokens(request: HttpRequest) -> HttpResponse:
    """``POST /api/v1/connect-tokens``: a token with which this user may have one session."""
    try:
        return _issue(request)
    except ApiError as error:
        return error.response()


def _issue(request: HttpRequest) -> HttpResponse:
    if request.method != "POST":
        raise invalid_request("Use POST.", status=405, headers={"Allow": "POST"})
    tenant = _tenant(request)
    user = _user(request)
    token = tokens.issue_connect_token(tenant_id=tenant.pk, user=user, now=timezone.now())
    answer = {
        "token": token.token,
        "expires_at": token.expires_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "ws_url": tokens.socket_url(host=request.get_host(), secure=request.is_secure()),
    }
    return JsonResponse(answer, status=201, headers={"Cache-Control": "no-store"})


def _tenant(request: HttpRequest) -> Tenant:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    try:
        # Another scheme is an empty key, which is as wrong as any.
        tenant = authenticate_api_key(key.strip() if scheme.lower() == "bearer" else "")
    except InvalidApiKey as error:
        raise ApiError(401, Reason.AUTHENTICATION_FAILED.value, str(error), {"WWW-Authenticate": "Bearer"}) from None
    if tenant.suspended:
        raise ApiError(403, Reason.TENANT_SUSPENDED.value, MEANINGS[Reason.TENANT_SUSPENDED].message)
    if not _rates.take(key.strip()):
        raise ApiError(429, Reason.RATE_LIMIT.value, MEANINGS[Reason.RATE_LIMIT].message, {"Retry-After": "1"})
    return tenant


def _user(request: HttpRequest) -> str:
    # One byte more than allowed is enough to see that there is too much; the length that the client states proves nothing.
    body = request.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        raise invalid_request(f"The body is larger than {MAX_BODY_BYTES} bytes.", status=413)
    try:
        user = _decoder.decode(body).user
    except msgspec.MsgspecError as error:
        raise invalid_request(f"The body is not as it should be: {str(error)[:200]}.") from None
    except (ValueError, RecursionError):
        raise invalid_request("The body is not JSON that can be read.") from None
    if not tokens.is_valid_user(user):
        raise invalid_request(f"The user's name must have 1 to {tokens.MAX_USER_CHARS} characters, none of them a control character.")
    return user
