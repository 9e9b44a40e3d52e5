"""``manage.py echo_agent``: an agent for LiveKit rooms that answers with the user's own voice; see ``providers.livekit.echo_agent``."""

import asyncio
import signal
import socket
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from sessions_app.providers.livekit import echo_agent
from voiceplatform import listening


class Command(BaseCommand):
    """Serve until a signal."""

    help = (
        "Run the reference agent: asked over HTTP by the platform (a LiveKit backend's option echo_agent_url), it enters the room and "
        "answers with the user's own voice. It accepts those who have the key in LIVEKIT_API_KEY and LIVEKIT_API_SECRET. Ctrl-C stops it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where it listens."""
        where = parser.add_mutually_exclusive_group()
        where.add_argument("--listen", default="127.0.0.1:8090", metavar="HOST:PORT", help="where it is asked; 127.0.0.1:8090 by default")
        where.add_argument("--fd", type=int, help="a listening socket that the parent process has left open under this number")
        parser.add_argument("--max-rooms", type=int, default=echo_agent.MAX_ROOMS, help="how many rooms at once")

    def handle(self, *_: Any, **options: Any) -> None:
        """Run."""
        if not settings.LIVEKIT_API_KEY or not settings.LIVEKIT_API_SECRET:
            raise CommandError("LIVEKIT_API_KEY and LIVEKIT_API_SECRET are not set.")
        try:
            listener = listening.inherited(options["fd"]) if options["fd"] is not None else _listen(options["listen"])
        except listening.CannotListenError as error:
            raise CommandError(str(error)) from None
        with listener:
            asyncio.run(_serve(listener, options["max_rooms"]))


def _listen(where: str) -> socket.socket:
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise CommandError(f"--listen must be HOST:PORT, not {where!r}.")
    return listening.listen(host.strip("[]"), int(port))


async def _serve(listener: socket.socket, max_rooms: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    agent = echo_agent.EchoAgent({settings.LIVEKIT_API_KEY: settings.LIVEKIT_API_SECRET}, max_rooms=max_rooms)
    await echo_agent.serve(agent, listener, stop)
