"""How the services say no: one tree, each class with the reason that clients are given. The first line of its docstring is its message.

Owns: what a door has to catch. Refuses: a secret, a token or a query in an error's text.
"""

from typing import ClassVar

from sessions_app.domain.states import Reason


class VoiceError(Exception):
    """What was asked for cannot be done.

    Attributes:
        reason: What clients, history and metrics are told; each door maps it to its own codes.
        retryable: Whether the same may succeed when asked again in a moment.
    """

    reason: ClassVar[Reason] = Reason.UNAVAILABLE
    retryable: ClassVar[bool] = False

    def __str__(self) -> str:
        return super().__str__() or (type(self).__doc__ or type(self).__name__).partition("\n")[0]


class Unavailable(VoiceError):
    """A store is away.

    Attributes:
        in_doubt: What was asked for may have been done all the same; only its answer was lost.
    """

    reason = Reason.UNAVAILABLE
    retryable = True

    def __init__(self, *, in_doubt: bool = False) -> None:
        super().__init__()
        self.in_doubt = in_doubt


class Overloaded(VoiceError):
    """More is being asked than can be answered in time."""

    reason = Reason.OVERLOADED
    retryable = True


class AuthenticationFailed(VoiceError):
    """The credential is missing, wrong, expired or spent."""

    reason = Reason.AUTHENTICATION_FAILED


class PermissionDenied(VoiceError):
    """Not allowed."""

    reason = Reason.AUTHORIZATION_FAILED
