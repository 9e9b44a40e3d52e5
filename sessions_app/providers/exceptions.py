"""How a voice backend says no: one tree of errors, each with the reason that clients and history are given.

Owns: the codes (they are the reasons of the client protocol) and whether trying again may help. The first line of a class's docstring is
its message.
Refuses: a vendor's own errors; each provider translates those once. A detail must not hold a token, key, password or transcript, since it
is logged and kept.
"""

from typing import ClassVar


class ProviderError(Exception):
    """The voice backend failed.

    Attributes:
        code: The reason that the session ends or is refused with.
        retryable: Whether the same backend may answer otherwise when asked again in a moment.
        detail: What happened, without secrets; empty where there is no more to say.
    """

    code: ClassVar[str] = "provider_failed"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail)
        self.detail = detail

    @property
    def message(self) -> str:
        """The sentence of this class of error, without the detail."""
        return (type(self).__doc__ or type(self).__name__).partition("\n")[0]

    def __str__(self) -> str:
        if not self.detail:
            return self.message
        return f"{self.message.rstrip('.')}: {self.detail}"


class ConnectionFailed(ProviderError):
    """The voice backend could not be reached."""

    code = "connection_failed"
    retryable = True


class OpenTimeout(ProviderError):
    """The voice backend took too long to answer."""

    code = "timeout"
    retryable = True


class InvalidConfig(ProviderError):
    """The backend's settings are wrong."""

    code = "invalid_config"


class ProviderNotFound(ProviderError):
    """There is no such provider."""

    code = "provider_not_found"


class ProviderFailed(ProviderError):
    """The voice backend failed during the session."""

    code = "provider_failed"
    retryable = True


class PipelineError(ProviderError):
    """The backend's speech pipeline failed during the session."""

    code = "pipeline_error"


class AgentAbsent(ProviderError):
    """No agent came to answer in the session."""

    code = "agent_absent"
    retryable = True


class NotRelayed(ProviderError):
    """The media of this provider does not pass through the platform.

    A programming error: ask ``capabilities.relayed`` before ``send`` and ``receive``.
    """


class WrongSignature(Exception):
    """A webhook that the backend has not signed.

    No ``ProviderError``: it says nothing about the backend, since anybody may have sent it. Its text says why, without what was sent.
    """
