"""The socket that web servers listen on, made in one place.

``manage.py up`` makes it before anything else, so that a busy port is found at once, and its web processes inherit it: they share one
queue of waiting connections, which belongs to none of them, so that no connection in it is lost when one of them is killed.
Refuses: a port that others listen on; there is no SO_REUSEPORT, under which each process has a queue that dies with it.
Limits: one address.
"""

import socket
from typing import Final

BACKLOG: Final = 4096  # connections that wait to be accepted: a crowd that comes at once


class CannotListenError(Exception):
    """The socket cannot be had; the message is one sentence."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there.

    Raises:
        CannotListenError: the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror:
        raise CannotListenError(f"VOICE_BIND is {host!r}, which is no address of this machine.") from None
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise CannotListenError(f"Port {port} on {host} cannot be used: {error.strerror}. Set PORT to another.") from None
    made.setblocking(False)
    return made


def inherited(number: int) -> socket.socket:
    """Return the listening socket that the parent process has left open under this file descriptor.

    Raises:
        CannotListenError: it is none.
    """
    try:
        found = socket.socket(fileno=number)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotListenError(f"File descriptor {number} is no socket: {error.strerror}.") from None
    if not listens:
        raise CannotListenError(f"File descriptor {number} is a socket that does not listen.")
    found.set_inheritable(False)
    found.setblocking(False)
    return found
