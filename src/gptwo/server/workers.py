"""Several processes behind one port, each with a model, an engine and threads of its own.

This process binds the address and starts the workers, which all listen on it: whoever is idle takes the next
connection. It never handles a request itself. Between the two a line of JSON is a message. To a worker: first
{settings, listeners, model_first}, then {metrics: N}, say yours, and {sum: N, text}, those of all. From a worker:
{listening}, {ready}, {warning, kind}, {failed, kind}, {metrics: N, text}, and {ask: N}, give me the sum.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from gptwo.errors import GptwoError, ServerError, class_named
from gptwo.server.address import BACKLOG, LAST_WORDS, address_of, listen, warn_if_open
from gptwo.server.log import configure_logging, note
from gptwo.server.settings import ServerSettings
from gptwo.server.signals import end_signals
from gptwo.server.summed_metrics import summed

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a worker that died is started again
STEADY = 60.0  # seconds after which a worker counts as one that works
MOST_FAILURES = 5  # in a row, before any worker was ready
METRICS_PATIENCE = 2.0  # seconds for a worker to say its metrics; then its last ones count
GRACE = 10.0  # seconds beyond the drain for a worker to end

Message = Mapping[str, Any]


def serve_with_workers(settings: ServerSettings, *, announce: Callable[[str], None] | None = None) -> None:
    """Serve with `settings.workers` processes until a signal ends it, as `process.serve` does with one.

    A worker that dies is started again, after a pause that doubles each time; one that is sent SIGTERM drains, ends and
    is replaced. SIGTERM or Ctrl-C here drains all of them, a second one ends all at once.

    Raises ServerError for an address that cannot be used or workers that die before they are ready, and whatever keeps
    the model from being loaded.
    """
    if os.name != "posix":
        raise ServerError("several workers need a system like Linux or macOS; leave --workers at 1")
    configure_logging(settings.log_level, settings.log_format)
    listeners = listen(settings.host, settings.port)
    try:
        for listener in listeners:
            listener.listen(BACKLOG)
        warn_if_open(settings)
        _Workers(settings, listeners, announce or (lambda address: None)).run()
    finally:
        for listener in listeners:
            listener.close()


class _Worker:
    """A process seen from here."""

    def __init__(self, number: int, first: Message, events: queue.SimpleQueue[tuple[_Worker | None, Any]]) -> None:
        self.number = number
        self.began, self.ready = time.monotonic(), False
        self.metrics = ""
        """The last that it said."""
        ours, theirs = socket.socketpair()
        self._control = ours
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gptwo.server.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *first["listeners"]],
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                start_new_session=True,  # Ctrl-C is for us, who pass it on
            )
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()
        self.say(first)

    def say(self, message: Message) -> None:
        """Send a message."""
        with contextlib.suppress(OSError):  # it has ended, and the reader says so
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        self.process.send_signal(number)

    def close(self) -> None:
        """Forget a process that has ended, or end it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self._control.close()

    def _read(self, events: queue.SimpleQueue[tuple[_Worker | None, Any]]) -> None:
        with contextlib.suppress(OSError), self._control.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                events.put((self, json.loads(line)))
        self.process.wait()
        events.put((self, None))


@dataclasses.dataclass
class _Sum:
    """Metrics that somebody asked for, while the workers are asked."""

    asker: _Worker
    number: int
    left: set[int]
    """The numbers of the workers that have not answered."""
    deadline: float


class _Workers:
    def __init__(
        self, settings: ServerSettings, listeners: list[socket.socket], announce: Callable[[str], None]
    ) -> None:
        self._settings, self._listeners = settings, listeners
        self._announce: Callable[[str], None] | None = announce
        self._events: queue.SimpleQueue[tuple[_Worker | None, Any]] = queue.SimpleQueue()
        self._workers: dict[int, _Worker] = {}
        self._failures = dict.fromkeys(range(settings.workers), 0)  # in a row
        self._restarts: dict[int, float] = {}  # when
        self._any_was_ready = False
        self._error: GptwoError | None = None
        self._warned: set[str] = set()
        self._end_by: float | None = None  # when whoever has not ended is killed; set once all are to end
        self._gone = ""  # what those who ended are remembered by
        self._sums: dict[int, _Sum] = {}
        self._asked = 0

    def run(self) -> None:
        """Start the workers and watch over them until they are to end and have."""
        try:
            with end_signals(self._on_signal):
                for number in range(self._settings.workers):
                    self._start(number)
                while self._workers or (self._restarts and self._end_by is None):
                    self._wait()
        finally:
            for worker in self._workers.values():
                worker.close()
        if self._error is not None:
            raise self._error

    def _wait(self) -> None:
        """Deal with what happens next."""
        moments = [*self._restarts.values(), *(one.deadline for one in self._sums.values())]
        moments += [] if self._end_by is None else [self._end_by]
        try:
            patience = max(0.0, min(moments) - time.monotonic()) if moments else None
            worker, message = self._events.get(timeout=patience)
        except queue.Empty:
            self._overdue()
            return
        if worker is None:
            self._signalled(message)
        elif message is None:
            self._ended(worker)
        else:
            self._told(worker, message)

    def _overdue(self) -> None:
        now = time.monotonic()
        for number in [number for number, when in self._restarts.items() if when <= now]:
            del self._restarts[number]
            self._start(number)
        for key in [key for key, one in self._sums.items() if one.deadline <= now]:
            self._answer(key)
        if self._end_by is not None and self._end_by <= now:
            note(logging.WARNING, "workers that did not end were killed", workers=len(self._workers))
            for worker in self._workers.values():
                worker.signal(signal.SIGKILL)
            self._end_by = now + GRACE

    def _start(self, number: int) -> None:
        first = {
            "settings": dataclasses.asdict(self._settings),
            "listeners": [listener.fileno() for listener in self._listeners],
            "model_first": self._any_was_ready,
        }
        try:
            worker = _Worker(number, first, self._events)
        except OSError as error:
            raise ServerError(f"no process can be started ({error.strerror})") from error
        self._workers[number] = worker
        note(logging.INFO, "worker started", worker=number, pid=worker.process.pid)

    def _told(self, worker: _Worker, message: Message) -> None:
        if "listening" in message and self._announce is not None:
            self._announce(address_of(self._listeners[0]))
            self._announce = None
        elif "ready" in message:
            worker.ready = self._any_was_ready = True
        elif "warning" in message and message["warning"] not in self._warned:
            self._warned.add(message["warning"])
            warnings.warn(message["warning"], class_named(message["kind"], UserWarning), stacklevel=2)
        elif "failed" in message:
            note(logging.ERROR, "worker failed", worker=worker.number, error=message["failed"])
            if not self._any_was_ready:
                self._fail(class_named(message["kind"], ServerError)(message["failed"]))
        elif "ask" in message:
            self._ask(worker, message["ask"])
        elif "metrics" in message:
            worker.metrics = message["text"]
            one = self._sums.get(message["metrics"])
            if one is not None:
                one.left.discard(worker.number)
                if not one.left:
                    self._answer(message["metrics"])

    def _ended(self, worker: _Worker) -> None:
        del self._workers[worker.number]
        worker.close()
        self._gone = summed([self._gone, worker.metrics], totals_only=True)
        for key, one in list(self._sums.items()):
            one.left.discard(worker.number)
            if not one.left:
                self._answer(key)
        if self._end_by is not None:
            return
        code, number = worker.process.returncode, worker.number
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        note(
            logging.INFO if code == 0 else logging.ERROR, "worker ended", worker=number, pid=worker.process.pid, by=how
        )
        steady = worker.ready and time.monotonic() - worker.began >= STEADY
        failures = self._failures[number] = 0 if code == 0 or steady else self._failures[number] + 1
        if failures >= MOST_FAILURES and not self._any_was_ready:
            memory = "; is there enough memory?" if code == -signal.SIGKILL else ""
            self._fail(ServerError(f"workers end before they are ready ({how}){memory}"))
            return
        pause = 0.0 if code == 0 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** max(0, failures - 1))
        self._restarts[number] = time.monotonic() + pause

    def _fail(self, error: GptwoError) -> None:
        """End all of it with an error, the first if there are several."""
        if self._error is None:
            self._error = error
            self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        self._restarts.clear()
        self._end_by = time.monotonic() + self._settings.drain_timeout + LAST_WORDS + GRACE
        for worker in self._workers.values():
            worker.signal(number)

    # ---- signals

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._events.put((None, number))  # of this queue a handler may do so at any moment

    def _signalled(self, number: int) -> None:
        if self._end_by is None:
            note(logging.INFO, "draining", workers=len(self._workers))
            self._end(signal.SIGTERM)
            return
        for worker in self._workers.values():
            worker.signal(signal.SIGKILL)
        os._exit(128 + number)

    # ---- metrics

    def _ask(self, asker: _Worker, number: int) -> None:
        self._asked += 1
        key = self._asked
        left = {worker.number for worker in self._workers.values()}
        self._sums[key] = _Sum(asker, number, left, time.monotonic() + METRICS_PATIENCE)
        for worker in self._workers.values():
            worker.say({"metrics": key})

    def _answer(self, key: int) -> None:
        one = self._sums.pop(key)
        texts = [self._gone, *(worker.metrics for worker in self._workers.values())]
        one.asker.say({"sum": one.number, "text": summed(texts)})
