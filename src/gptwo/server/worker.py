"""One of several processes that serve the same port; `workers` starts them and says what passes between the two.

When the connection to the process that started it ends, a worker ends too, at once: that process was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import socket
import sys
import threading
import warnings
from collections.abc import Mapping
from typing import Any

from gptwo.decoder.native import default_threads
from gptwo.errors import GptwoError, NotReadyError
from gptwo.loading import open_model
from gptwo.server.process import serve
from gptwo.server.service import Service
from gptwo.server.settings import ServerSettings

PATIENCE = 10.0  # seconds for the sum of all workers' metrics


def main() -> None:
    """Serve until a signal ends it."""
    control = _Control(socket.socket(fileno=int(sys.argv[1])))
    first = control.first()
    listeners: list[socket.socket] = [_SharedListener(fileno=number) for number in first["listeners"]]

    def show_warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
        control.say({"warning": str(message), "kind": category.__name__})

    warnings.showwarning = show_warning
    try:
        settings = ServerSettings(**first["settings"])
        threads = settings.threads or max(1, default_threads() // settings.workers)
        settings = dataclasses.replace(settings, threads=threads)
        # One that takes the place of another has a model before it has requests; the others have those it would refuse.
        model = open_model(**settings.model_options()) if first["model_first"] else None
        serve(
            settings,
            sockets=listeners,
            model=model,
            backlog=1,  # connections at a time, so that none of those who listen takes all that wait
            on_service=control.watch,
            announce=lambda _: control.listening(),
        )
        code = 0
    except GptwoError as error:
        control.say({"failed": str(error), "kind": type(error).__name__})
        code = 1
    sys.stderr.flush()
    os._exit(code)  # the interpreter cannot end cleanly around the thread that listens


class _SharedListener(socket.socket):
    """A socket on which all workers listen. How many connections may wait there is not for one of them to say."""

    def listen(self, backlog: int = 0, /) -> None:
        """Nothing: it listens."""


class _Control:
    """The connection to the process that started this one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r", encoding="utf-8")
        self._writing = threading.Lock()
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[str]] = {}
        self._service: Service | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready: asyncio.Task[None] | None = None

    def first(self) -> dict[str, Any]:
        """What the worker is to do; from then on the connection is listened to."""
        first: dict[str, Any] = json.loads(self._lines.readline() or "{}")
        threading.Thread(target=self._listen, name="gptwo-control", daemon=True).start()
        return first

    def say(self, values: Mapping[str, Any]) -> None:
        """Send a message; from any thread."""
        with self._writing, contextlib.suppress(OSError):  # the other side is gone, and this one about to end
            self._connection.sendall(json.dumps(values).encode() + b"\n")

    def watch(self, service: Service) -> None:
        """Take the service, before it starts: its metrics are to be those of all workers."""
        self._service = service
        service.render_metrics = self._sum

    def listening(self) -> None:
        """The server listens; called on its event loop."""
        self._loop = asyncio.get_running_loop()
        self.say({"listening": True})
        self._ready = self._loop.create_task(self._tell_when_ready())

    async def _tell_when_ready(self) -> None:
        assert self._service is not None
        await self._service.loaded()
        if self._service.state == "ready":
            self.say({"ready": True})

    async def _sum(self) -> tuple[bytes, str]:
        assert self._loop is not None
        number = next(self._numbers)
        self._asked[number] = self._loop.create_future()
        try:
            self.say({"ask": number})
            async with asyncio.timeout(PATIENCE):
                text = await self._asked[number]
        except TimeoutError as error:
            raise NotReadyError("the workers did not all say their metrics in time; ask again in a moment") from error
        finally:
            del self._asked[number]
        assert self._service is not None
        return text.encode(), self._service.metrics.content_type

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            for line in self._lines:
                message = json.loads(line)
                if "metrics" in message and self._service is not None:
                    self.say({"metrics": message["metrics"], "text": self._service.metrics.render()[0].decode()})
                elif "sum" in message and self._loop is not None:
                    self._loop.call_soon_threadsafe(self._answer, message["sum"], message["text"])
        os._exit(1)

    def _answer(self, number: int, text: str) -> None:
        asked = self._asked.get(number)
        if asked is not None and not asked.done():
            asked.set_result(text)


if __name__ == "__main__":
    main()
