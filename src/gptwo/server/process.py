"""The server as a process: a socket, uvicorn, and signals that end it gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn

from gptwo.errors import ServerError
from gptwo.loading import OpenModel
from gptwo.server.address import BACKLOG, LAST_WORDS, address_of, is_local, listen, warn_if_open
from gptwo.server.app import create_app
from gptwo.server.log import configure_logging, note
from gptwo.server.protocol import Protocol
from gptwo.server.service import Service
from gptwo.server.settings import ServerSettings
from gptwo.server.signals import end_signals

# How long a thread that reads or writes long texts may keep the event loop waiting, each time: a fifth of the usual.
SWITCH_SECONDS = 0.001
# When the garbage collector looks through new objects, those that stayed, and all there are. The last takes hundreds of
# milliseconds while long texts are scored, and finds nothing, as requests leave no cycles; so it is rare.
COLLECTIONS = (2_000, 10, 1_000)
IDLE_CONNECTION = 75  # seconds without a request; longer than what proxies keep theirs open for


def serve(
    settings: ServerSettings,
    *,
    sockets: Sequence[socket.socket] | None = None,
    announce: Callable[[str], None] | None = None,
    model: OpenModel | None = None,
    backlog: int = BACKLOG,
    on_service: Callable[[Service], None] = lambda service: None,
) -> None:
    """Serve until a signal ends it: SIGTERM or Ctrl-C drains first, a second one ends the process at once.

    sockets: bound ones to serve on in place of the settings' host and port. announce: told the server's address when it
    listens. model: one that is open already. backlog: connections that may wait, and that are taken at a time.
    on_service: told the service before anything begins.
    Raises ServerError for an address that cannot be used, and whatever kept the model from being loaded.
    """
    configure_logging(settings.log_level, settings.log_format)
    _allow_more_files()
    listeners = list(sockets) if sockets else listen(settings.host, settings.port)
    try:
        app = create_app(settings, model=model, local=all(map(is_local, listeners)))
        if not sockets:
            warn_if_open(settings)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    service: Service = app.state.service
    on_service(service)
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*COLLECTIONS)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who the client is changes nothing here
        lifespan="on",
        http=Protocol,
        ws="none",
        backlog=backlog,
        loop="asyncio" if sockets else "auto",  # uvloop takes all connections that wait, however many are asked for
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
        with end_signals(self.handle_exit):
            yield

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


def _leave_if_loading(service: Service) -> None:
    """End the process here if a thread still loads the model: the interpreter cannot end around it safely."""
    if service.loader_is_running:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)
