"""How this package says no: one tree of errors, each with a stable code. The first line of a class's docstring is its message.

Refuses: a key or a part of one in a detail, since details are shown and logged.
"""

from typing import ClassVar


class TenantsError(Exception):
    """The request about a tenant was refused.

    Attributes:
        code: Stable name of the error, for programs.
        retryable: Whether the same call may succeed later without any change by the caller.
        detail: The whole sentence to show where there is more to say than the class's message; no secrets.
    """

    code: ClassVar[str] = "tenants_error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    def __str__(self) -> str:
        return self.detail or (type(self).__doc__ or type(self).__name__).partition("\n")[0]


class TenantNotFound(TenantsError):
    """There is no such tenant."""

    code = "tenant_not_found"


class TenantExists(TenantsError):
    """There is a tenant with this slug already."""

    code = "tenant_exists"


class InvalidTenant(TenantsError):
    """The tenant's slug or name is not allowed."""

    code = "invalid_tenant"


class InvalidQuota(TenantsError):
    """The quota has an unknown field or a value that is not allowed."""

    code = "invalid_quota"


class InvalidOverride(TenantsError):
    """The override has an unknown field, a time that is over, or a change that is none."""

    code = "invalid_override"


class NotAMember(TenantsError):
    """The user is not a member of this tenant."""

    code = "authorization_failed"


class InvalidApiKey(TenantsError):
    """The API key is not valid.

    Malformed, unknown, wrong and revoked keys are told alike: whoever tries keys learns nothing.
    """

    code = "authentication_failed"
