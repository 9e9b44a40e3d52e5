"""The one table from a reason to the code that a WebSocket is closed with.

Besides the reasons' own (``domain.states.MEANINGS``) there are a few closes that no session's history knows of.
Refuses: standard codes other than 1000, which not every server can send.
"""

from typing import Final

from sessions_app.domain.states import MEANINGS, Reason

NORMAL: Final = 1000
GOING_AWAY: Final = 4012  # connect again, perhaps elsewhere
MALFORMED: Final = 4400  # malformed message or audio, repeated; or no session.start in time
REPLACED: Final = 4409  # by a newer connection of the same session


def for_reason(reason: Reason) -> int:
    """Return the close code; a reason that normally finds nobody to close asks whoever is there to connect again."""
    return MEANINGS[reason].close or GOING_AWAY
