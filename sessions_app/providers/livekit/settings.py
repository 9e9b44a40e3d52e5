"""The form of a LiveKit backend: what ``options`` reads, in the words of the person who sets it up."""

from typing import Final

from sessions_app.providers.settings import Setting

SETTINGS: Final = (
    Setting(
        "url",
        "Address of the server",
        "Where the platform reaches it: wss://voice.example.com, or ws://127.0.0.1:7880 on this machine.",
        required=True,
    ),
    Setting(
        "public_url",
        "Address for clients",
        "Where browsers reach it, if that is another address; else they are given the one above.",
    ),
    Setting("api_key", "API key", "One of the keys in the server's configuration.", required=True, secret=True),
    Setting("api_secret", "API secret", "The secret of that key, 32 characters or more.", required=True, secret=True),
    Setting(
        "agent_name",
        "Name of the agent",
        "Agents that run under this name are asked into each room (LiveKit Agents). Empty: none is asked for by name.",
    ),
    Setting(
        "echo_agent_url",
        "Address of the echo agent",
        "The platform's own agent, which answers with the caller's voice, for trying things out. Empty: it is not asked.",
    ),
    Setting(
        "agent_timeout_s",
        "Time for the agent to come, in seconds",
        "Until its audio is in the room. 0: no agent is expected.",
        kind="number",
        default=10,
        minimum=0,
        maximum=3600,
    ),
    Setting(
        "on_agent_absent",
        "When no agent comes",
        kind="choice",
        default="retry",
        choices=(
            ("retry", "ask for one again, once; then end the session"),
            ("other", "move to another backend, or end the session"),
            ("end", "end the session"),
        ),
    ),
    Setting(
        "join_timeout_s",
        "Time for the user to join, in seconds",
        "Whoever is not in the room by then loses the slot.",
        kind="number",
        default=30,
        minimum=1,
        maximum=3600,
    ),
    Setting(
        "request_timeout_s",
        "Time for one answer of the server, in seconds",
        kind="number",
        default=2,
        minimum=1,
        maximum=30,
        advanced=True,
    ),
    Setting(
        "departure_timeout_s",
        "Time that a left room is kept, in seconds",
        "The server removes it then, if the platform has not. Longer than the grace of any tenant.",
        kind="number",
        default=120,
        minimum=1,
        maximum=86_400,
        advanced=True,
    ),
    Setting(
        "previous_api_key",
        "Former API key",
        "While keys are changed: webhooks signed with this one are accepted too.",
        secret=True,
        advanced=True,
    ),
    Setting("previous_api_secret", "Former API secret", secret=True, advanced=True),
)
