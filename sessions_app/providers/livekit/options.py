"""What an operator sets for a LiveKit backend, checked.

Owns: names, ranges and the two forms of the address: ``http`` for calls, ``ws`` for clients. Secrets are read here too, and never shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self, cast

from sessions_app.providers.base import AbsentAgent, RoomPolicy
from sessions_app.providers.exceptions import InvalidConfig
from sessions_app.providers.options import OptionReader

LONGEST_S: Final = 86_400
ON_AGENT_ABSENT: Final = ("retry", "other", "end")
_SCHEMES: Final = ("ws", "wss", "http", "https")
_PAIRS: Final = (("api_key", "api_secret"), ("previous_api_key", "previous_api_secret"))
MIN_SECRET: Final = 32  # characters: LiveKit's own advice, and what HS256 wants
# A room that nobody enters outlives the time to join in by this much: the platform ends it first, and LiveKit where the platform is gone.
_EMPTY_MARGIN_S: Final = 60


@dataclass(frozen=True, slots=True)
class LiveKitOptions:
    """The options, checked. All times are in whole seconds.

    Attributes:
        api_url: Where the server's API is, ``http://`` or ``https://``.
        client_url: What clients are given, ``ws://`` or ``wss://``: from ``public_url``, else from ``url``.
        agent_url: What the echo agent is given, ``ws://`` or ``wss://``: from ``url``.
        agent_name: Agents of this name are dispatched to each room; empty: none is asked for by name.
        echo_agent_url: Where the echo agent listens, ``http://`` or ``https://``; empty: it is not asked.
        join_timeout_s: The user must be in the room by then, 30 by default.
        agent_timeout_s: An agent must be there by then, 10 by default; 0: no agent is expected.
        on_agent_absent: What to do then: ``retry`` (the default), ``other`` or ``end``.
        request_timeout_s: Longest wait for one answer of the server, 2 by default.
        departure_timeout_s: How long a room stays when its user has gone, 120 by default; must be longer than any tenant's grace.
    """

    api_url: str
    client_url: str
    agent_url: str
    agent_name: str
    echo_agent_url: str
    join_timeout_s: int
    agent_timeout_s: int
    on_agent_absent: AbsentAgent
    request_timeout_s: int
    departure_timeout_s: int

    @property
    def empty_timeout_s(self) -> int:
        """How long LiveKit keeps a room that nobody enters."""
        return self.join_timeout_s + _EMPTY_MARGIN_S

    @property
    def policy(self) -> RoomPolicy:
        """The times in the contract's words."""
        return RoomPolicy(
            join_timeout_s=self.join_timeout_s, agent_timeout_s=self.agent_timeout_s or None, on_agent_absent=self.on_agent_absent
        )

    @classmethod
    def read(cls, options: Mapping[str, object]) -> Self:
        """Check and return the options.

        Raises:
            InvalidConfig: One is unknown or wrong; the detail names it.
        """
        reader = OptionReader(options)
        url = reader.address("url", _SCHEMES, required=True)
        checked = cls(
            api_url=_with_scheme(url, "http"),
            client_url=_with_scheme(reader.address("public_url", _SCHEMES) or url, "ws"),
            agent_url=_with_scheme(url, "ws"),
            agent_name=reader.text("agent_name").strip(),
            echo_agent_url=reader.address("echo_agent_url", ("http", "https")),
            join_timeout_s=reader.integer("join_timeout_s", 30, minimum=1, maximum=3600),
            agent_timeout_s=reader.integer("agent_timeout_s", 10, minimum=0, maximum=3600),
            on_agent_absent=cast(AbsentAgent, reader.word("on_agent_absent", ON_AGENT_ABSENT)),
            request_timeout_s=reader.integer("request_timeout_s", 2, minimum=1, maximum=30),
            departure_timeout_s=reader.integer("departure_timeout_s", 120, minimum=1, maximum=LONGEST_S),
        )
        reader.finish()
        return checked


@dataclass(frozen=True, slots=True)
class Credentials:
    """The API keys of a LiveKit server.

    Attributes:
        key: What calls and tokens are signed with.
        secret: That key's secret; not shown in ``repr``.
        pairs: Every key whose signature on a webhook is accepted, with its secret; not shown in ``repr``.
    """

    key: str
    secret: str = field(repr=False)
    pairs: Mapping[str, str] = field(repr=False)

    @classmethod
    def read(cls, secrets: Mapping[str, str]) -> Self:
        """Check and return the keys.

        Raises:
            InvalidConfig: One is unknown, missing or too short; the detail names it, without its value.
        """
        unknown = sorted(set(secrets) - {name for pair in _PAIRS for name in pair})
        if unknown:
            names = ", ".join(name for pair in _PAIRS for name in pair)
            raise InvalidConfig(f"unknown secret {', '.join(map(repr, unknown))}; there are {names}.")
        pairs: dict[str, str] = {}
        for key_name, secret_name in reversed(_PAIRS):
            key, secret = secrets.get(key_name, "").strip(), secrets.get(secret_name, "").strip()
            if bool(key) != bool(secret) or (not key and key_name == _PAIRS[0][0]):
                missing = secret_name if key else key_name
                raise InvalidConfig(f"secret {missing!r} is missing.")
            if key and len(secret) < MIN_SECRET:
                raise InvalidConfig(f"secret {secret_name!r} must have {MIN_SECRET} characters or more.")
            if key:
                pairs[key] = secret
        key = secrets["api_key"].strip()
        return cls(key=key, secret=pairs[key], pairs=pairs)


def _with_scheme(url: str, plain: str) -> str:
    """Return the address with ``plain`` or its encrypted form as its scheme."""
    scheme, _, rest = url.partition("://")
    return f"{plain}{'s' if scheme in {'wss', 'https'} else ''}://{rest}"
