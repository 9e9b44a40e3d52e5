"""LiveKit beside the platform on one machine: which one is used, one of our own where that is asked for, and the echo agent.

Owns: the choice (``manage.py up --livekit`` starts one; ``LIVEKIT_URL``, ``LIVEKIT_API_KEY`` and ``LIVEKIT_API_SECRET`` name one that runs
elsewhere; without either there is none), and where the echo agent listens. Refuses: half of the three variables, and both at once.
Limits: the server of our own is for browsers on this machine; its keys are made once and kept in the data folder.
"""

import contextlib
import socket
import sys
from pathlib import Path
from typing import Final

from voiceplatform import datafolder, env, listening
from voiceplatform.embedded import livekit_program
from voiceplatform.embedded.livekit import LiveKit
from voiceplatform.env import ConfigurationError
from voiceplatform.program import Program
from voiceplatform.store import Store
from voiceplatform.supervisor import Supervisor

BACKEND: Final = "livekit"  # what the backend is called, and so its webhooks' address
AGENT_HOST: Final = "127.0.0.1"
_NAMES: Final = ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")
_AGENT_PATIENCE_S: Final = 5.0


class LocalLiveKit:
    """What of LiveKit runs here.

    Args:
        folder: the data folder.
        own: whether a server is to be started.
        origin: where the web server is, for the server's webhooks.

    Raises:
        ConfigurationError: what the environment says does not fit together, or there is no program to start.
    """

    def __init__(self, folder: Path, *, own: bool, origin: str) -> None:
        self._folder = folder
        self._listener: socket.socket | None = None
        named = [name for name in _NAMES if env.text(name)]
        if named and own:
            raise ConfigurationError(f"{named[0]} names a LiveKit that runs elsewhere: unset it, or leave the one of this machine out.")
        if named and len(named) < len(_NAMES):
            missing = ", ".join(name for name in _NAMES if name not in named)
            raise ConfigurationError(f"{' and '.join(named)} {'is' if len(named) == 1 else 'are'} set, but not {missing}.")
        if own and livekit_program.find() is None:
            raise ConfigurationError(f"There is no livekit-server here. {livekit_program.WHERE}")
        self.webhooks = f"{origin}/webhooks/livekit/{BACKEND}/"
        self._server = LiveKit(folder, webhooks=[self.webhooks]) if own else None
        self._is_wanted = own or bool(named)

    @property
    def url(self) -> str:
        """Where it is; empty where there is none."""
        return self._server.url if self._server is not None else env.text(_NAMES[0])

    @property
    def additions(self) -> dict[str, str]:
        """Variables for every process of the platform; the keys are not among them."""
        if self._listener is None:
            return {}
        return {"VOICE_ECHO_AGENT_URL": f"http://{AGENT_HOST}:{self._listener.getsockname()[1]}"}

    def start_server(self, supervisor: Supervisor) -> None:
        """Start the server of our own, where there is one, and tell every process with this data folder where it is.

        Raises:
            EmbeddedError: it cannot run.
        """
        datafolder.forget_livekit(self._folder)
        if self._is_wanted:
            self._listener = listening.listen(AGENT_HOST, 0)
        if self._server is not None:
            supervisor.add(Store("LiveKit", self._server))
            datafolder.write_livekit(self._folder, url=self._server.url, api_key=self._server.key, api_secret=self._server.secret)

    def start_agent(self, supervisor: Supervisor, *, folder: Path, additions: dict[str, str]) -> None:
        """Start the echo agent, where there is a LiveKit."""
        if self._listener is None:
            return
        number = self._listener.fileno()
        command = [sys.executable, "manage.py", "echo_agent", "--fd", str(number)]
        agent = Program("agent", command, supervisor, folder=folder, additions=additions, patience_s=_AGENT_PATIENCE_S, inherits=[number])
        supervisor.add(agent)

    def close(self) -> None:
        """Take away what others were told."""
        if self._listener is not None:
            self._listener.close()
        with contextlib.suppress(OSError):
            datafolder.forget_livekit(self._folder)
