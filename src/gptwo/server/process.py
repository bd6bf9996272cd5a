"""The server as a process: a socket, uvicorn, and signals that end it gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn

from gptwo.errors import ServerError, one_line
from gptwo.server.app import create_app
from gptwo.server.keys import ApiKeys
from gptwo.server.log import configure_logging, note
from gptwo.server.protocol import Protocol
from gptwo.server.service import Service
from gptwo.server.settings import ServerSettings

# After the drain: seconds for clients that read slowly to take what is theirs.
LAST_WORDS = 5
# How long a thread that reads or writes long texts may keep the event loop waiting, each time: a fifth of the usual.
SWITCH_SECONDS = 0.001
BACKLOG = 2048
IDLE_CONNECTION = 75  # seconds without a request; longer than what proxies keep theirs open for


def serve(
    settings: ServerSettings,
    *,
    sockets: Sequence[socket.socket] | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until a signal ends it: SIGTERM or Ctrl-C drains first, a second one ends the process at once.

    sockets: bound ones to serve on in place of the settings' host and port. announce: told the server's address when it
    listens. Raises ServerError for an address that cannot be used, and whatever kept the model from being loaded.
    """
    configure_logging(settings.log_level, settings.log_format)
    _allow_more_files()
    listeners = list(sockets) if sockets else listen(settings.host, settings.port)
    try:
        app = create_app(settings, local=all(map(is_local, listeners)))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    service: Service = app.state.service
    _warn_if_open(settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who the client is changes nothing here
        lifespan="on",
        http=Protocol,
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_CONNECTION,
        timeout_graceful_shutdown=LAST_WORDS,
    )
    server = _Server(config, service, announce=lambda: announce and announce(address_of(listeners[0])))
    try:
        server.run(sockets=listeners)
    finally:
        for listener in listeners:
            listener.close()
    if service.error is not None:
        raise service.error
    if not server.started:
        raise ServerError("the server could not start; the lines above say why")
    _leave_if_loading(service)


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


class _Server(uvicorn.Server):
    """uvicorn's server with our signals: it goes on listening while it drains, so that health checks get an answer."""

    def __init__(self, config: uvicorn.Config, service: Service, *, announce: Callable[[], object]) -> None:
        super().__init__(config)
        self._service, self._announce = service, announce
        self._asked_to_end = False
        self._ending: asyncio.Task[None] | None = None
        service.on_failure = self._fail

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            try:
                self._announce()
            except OSError as error:  # whoever reads standard output, or its disk, is no reason not to serve
                note(logging.WARNING, "the address cannot be written to standard output", error=error.strerror)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take over SIGINT and SIGTERM for as long as the server runs."""
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread, which alone has signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends the process at once."""
        if self._asked_to_end:
            os._exit(128 + sig)  # nothing can hold this up: neither a step of the engine nor a client
        self._asked_to_end = True
        self._loop.call_soon_threadsafe(self._end)  # a handler runs between any two instructions

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def _end(self) -> None:
        self._ending = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self._service.drain()
        finally:
            self.should_exit = True

    def _fail(self) -> None:
        self.should_exit = True


def _allow_more_files() -> None:
    """Each connection is an open file; take as many as this process may have."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _warn_if_open(settings: ServerSettings) -> None:
    try:
        local = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        local = False
    if not local and not len(ApiKeys.read(settings.api_key_file)):
        note(logging.WARNING, "whoever reaches this address may use the model: there is no API key", host=settings.host)


def _leave_if_loading(service: Service) -> None:
    """End the process here if a thread still loads the model: the interpreter cannot end around it safely."""
    if service.loader_is_running:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)
