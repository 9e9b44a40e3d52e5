"""Two questions of load balancers and supervisors, without a login and without a detail that would help a stranger."""

from django.db import Error as DatabaseError
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from sessions_app.runtime.node import node_runtime


@require_safe
@never_cache
def alive(request: HttpRequest) -> JsonResponse:
    """Answer 200: the process serves requests. It asks no store, so that an outage of theirs restarts nobody."""
    return JsonResponse({"alive": True})


@require_safe
@never_cache
def ready(request: HttpRequest) -> JsonResponse:
    """Answer 200 when a session could be admitted here, 503 when not."""
    try:
        is_ready = node_runtime().ready()
    except DatabaseError:
        is_ready = False
    return JsonResponse({"ready": is_ready}, status=200 if is_ready else 503)
