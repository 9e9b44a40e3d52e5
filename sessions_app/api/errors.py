"""How the HTTP API says no: ``{"code": …, "message": …}`` with a status.

Owns: the shape of every refusal. Codes are stable, messages are for people and may change.
"""

from dataclasses import dataclass, field

from django.http import JsonResponse


@dataclass(eq=False, slots=True)
class ApiError(Exception):
    """The request is refused.

    Attributes:
        status: HTTP status.
        code: Stable, for programs.
        message: One sentence, for people; no secrets.
        headers: Besides the usual ones.
    """

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> JsonResponse:
        """Return the answer to the client."""
        return JsonResponse(
            {"code": self.code, "message": self.message}, status=self.status, headers={"Cache-Control": "no-store", **self.headers}
        )


def invalid_request(message: str, *, status: int = 400, headers: dict[str, str] | None = None) -> ApiError:
    """Return the refusal of a request that is wrong in itself."""
    return ApiError(status, "invalid_request", message, headers or {})
