"""The web server: ``python -m voiceplatform.web`` serves ``voiceplatform.asgi`` with uvicorn or daphne.

Owns: its options, and what is told when it cannot start. How each server is set up and stopped is its own module's business.
Exit codes: 0 after a signal, 1 after a second one, 2 where the start is refused, with one sentence; what does not end within ten seconds
of a signal is ended by SIGALRM. No log configuration of its own: Django's formats the servers' lines too.
Limits: one process, one event loop; more are more of these, on a socket that their parent has opened for all.
"""

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Callable
from socket import socket
from typing import Final

from django.core.exceptions import ImproperlyConfigured

from voiceplatform import env, listening

# Imported when chosen: what either brings along must not disturb the other.
SERVERS: Final = {"uvicorn": "voiceplatform.uvicorn_server", "daphne": "voiceplatform.daphne_server"}

FULL_COLLECTION_AFTER: Final = 1000  # collections of the middle generation
Serve = Callable[[socket, Callable[[], None]], bool]


def main() -> None:
    """Serve until a signal."""
    try:
        options = _options()
        listener = listening.listen(options.host, options.port) if options.fd is None else listening.inherited(options.fd)
        serve: Serve = importlib.import_module(SERVERS[options.server]).serve
    except (ImproperlyConfigured, listening.CannotListenError) as error:
        sys.stderr.write(f"voiceplatform: {error}\n")
        sys.exit(2)
    if not serve(listener, lambda: _tell(options.ready_fd)):
        # At once: neither threads nor what is registered for the end are waited for.
        os._exit(1)


def chosen_server() -> str:
    """Return the server that the environment names.

    Raises:
        ConfigurationError: there is no such server.
    """
    return env.choice("SERVER", tuple(SERVERS))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m voiceplatform.web", description="Serve the web pages, the API and the WebSocket.")
    parser.add_argument("--server", choices=tuple(SERVERS), default=chosen_server(), help="default: SERVER, else uvicorn")
    parser.add_argument("--host", default=env.text("VOICE_BIND", "127.0.0.1"), help="default: VOICE_BIND, else 127.0.0.1")
    parser.add_argument("--port", type=_port, default=env.integer("PORT", 8000, minimum=1, maximum=65_535), help="default: PORT, else 8000")
    parser.add_argument("--fd", type=int, help="a listening socket that was inherited, instead of host and port")
    parser.add_argument("--ready-fd", type=int, help="a pipe that is written to once connections are served")
    return parser.parse_args()


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65_536:
        raise ValueError
    return port


def collect_seldom() -> None:
    """Set the garbage collector up for a process that has loaded all that it needs and serves from now on.

    A full collection stops everybody's audio: for 0.1 s with what is loaded, which stays and need not be walked, and for as long again
    with a thousand connections. They leave no cycles behind when they close, so it may come a hundred times less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTION_AFTER)


def _tell(ready: int | None) -> None:
    collect_seldom()
    if ready is not None:
        os.write(ready, b"ready\n")
        os.close(ready)


if __name__ == "__main__":
    main()
