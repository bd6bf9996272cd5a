"""The address that a server listens on."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket

from gptwo.errors import ServerError, one_line
from gptwo.server.keys import ApiKeys
from gptwo.server.log import note
from gptwo.server.settings import ServerSettings

BACKLOG = 2048  # connections that may wait
# After the drain: seconds for clients that read slowly to take what is theirs.
LAST_WORDS = 5


def listen(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host, on one port. Raises ServerError."""
    place = f"port {port} of {host}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ServerError(f"{host} is no address of this machine ({one_line(error)})") from error
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            if os.name == "posix":  # elsewhere the option means that others may take the port as well
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            chosen = listeners[0].getsockname()[1] if port == 0 and len(listeners) > 1 else port
            listener.bind((address[0], chosen, *address[2:]))
            listener.set_inheritable(True)
    except OSError as error:
        for listener in listeners:
            listener.close()
        reason = {
            errno.EADDRINUSE: "is taken by another process; choose another with --port",
            errno.EACCES: "may not be used by this user; choose another with --port",
            errno.EADDRNOTAVAIL: "cannot be had: this machine has no such address",
        }.get(error.errno or 0, f"cannot be had ({error.strerror})")
        raise ServerError(f"{place} {reason}") from error
    return listeners


def address_of(listener: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return str(listener.getsockname())
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def warn_if_open(settings: ServerSettings) -> None:
    """Write a warning if others than this machine can reach the server, and need no key."""
    try:
        local = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        local = False
    if not local and not len(ApiKeys.read(settings.api_key_file)):
        note(logging.WARNING, "whoever reaches this address may use the model: there is no API key", host=settings.host)
