"""The thread that runs an engine: orders in, one report a step out.

It runs `Engine.step` while there is work, and sleeps otherwise. Nobody else touches the engine, but for `prepare`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from time import monotonic

from gptwo.engine import Engine, Event, Failure, Request, Statistics
from gptwo.errors import GptwoError, QueueTimeoutError, one_line

SHORTEST_RETRY, LONGEST_RETRY = 1.0, 60.0  # seconds; the official OpenAI client heeds no longer wait


@dataclass
class Report:
    """What came of one round. Moments are those of `time.monotonic`."""

    begun: list[int] = field(default_factory=list)
    """The numbers of the requests whose turn came."""
    begun_at: float = 0.0
    events: Sequence[Event] = ()
    came_at: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)

    def says_anything(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.begun or self.events or self.failures or self.cancelled)


class EngineThread:
    """Its orders may be given by any thread, also in the middle of a finalizer; they are done between two steps.

    deliver, broken: called on the event loop, with what came of a round, or the exception that ended the thread.
    max_wait: seconds that a request may wait to be begun; None is for ever.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_wait: float | None,
        deliver: Callable[[Report], None],
        broken: Callable[[BaseException], None],
    ) -> None:
        self._engine, self._max_wait = engine, max_wait
        self._deliver, self._broken = deliver, broken
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="gptwo engine", daemon=True)
        # A SimpleQueue may be put into in the middle of anything, as a finalizer does.
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopping = False
        self._waiting: dict[int, float] = {}  # not begun, in order, and when they were submitted
        self._report = Report()
        self.state = self._look()

    # ---- orders

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; `loop` is where reports go."""
        self._loop = loop
        self._thread.start()

    def submit(self, requests: Sequence[Request], submitted: float) -> None:
        """Queue requests that came at that moment."""
        self._orders.put(partial(self._submit, requests, submitted))

    def cancel(self, request_id: int) -> None:
        """Drop a request and free its memory."""
        self._orders.put(partial(self._cancel, request_id))

    def stop(self) -> None:
        """End after the step that is under way, and free all memory of the engine."""
        self._orders.put(self._stop)

    def join(self) -> None:
        """Wait for the end, if there was a beginning."""
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether it has begun and not ended."""
        return self._thread.is_alive()

    state: tuple[int | None, int, Statistics]
    """Blocks in use, blocks held for prompts to come, and what was counted, as of the last step."""

    # ---- the thread itself

    def _work(self) -> None:
        try:
            while self._obey():
                self._step()
                self._expire()
                self._tell()
        except BaseException as error:  # noqa: BLE001  # whatever it is, nobody may be left waiting
            self._call(partial(self._broken, error))
        finally:
            # What the engine holds is freed as far as that goes; after a defect it may not.
            with contextlib.suppress(Exception):
                self._engine.close()
                self.state = self._look()

    def _obey(self) -> bool:
        """Do what was ordered since, and wait for an order if there is nothing else to do. False: stop."""
        idle = not self._engine.has_work() and not self._stopping
        while idle or not self._orders.empty():
            self._orders.get()()
            idle = False
        return not self._stopping

    def _submit(self, requests: Sequence[Request], submitted: float) -> None:
        for request in requests:
            try:
                self._engine.submit(request)
            except Exception as error:  # noqa: BLE001  # whatever it is, the others go on
                self._report.failures.append(Failure(request.id, _reported(error)))
            else:
                self._waiting[request.id] = submitted

    def _cancel(self, request_id: int) -> None:
        self._engine.cancel(request_id)
        self._waiting.pop(request_id, None)
        self._report.cancelled.append(request_id)

    def _stop(self) -> None:
        self._stopping = True

    def _step(self) -> None:
        if not self._engine.has_work():
            return
        report = self._report
        report.begun_at = monotonic()
        report.events = self._engine.step()
        report.came_at = monotonic()
        while len(self._waiting) > self._engine.waiting:  # which begins them in the same order
            first = next(iter(self._waiting))
            del self._waiting[first]
            report.begun.append(first)

    def _expire(self) -> None:
        """Fail those who have waited too long. Each has had the chance of one step, so room is never refused."""
        while self._waiting and self._max_wait is not None:
            first, submitted = next(iter(self._waiting.items()))
            waited = self._report.came_at - submitted
            if waited <= self._max_wait:
                return
            self._engine.cancel(first)
            del self._waiting[first]
            message = f"the server is busy: the request waited for {waited:.1f} seconds and was not begun"
            self._report.failures.append(Failure(first, QueueTimeoutError(message, retry_after(waited))))

    def _tell(self) -> None:
        self.state = self._look()
        if self._report.says_anything():
            self._call(partial(self._deliver, self._report))
            self._report = Report()

    def _call(self, function: Callable[[], None]) -> None:
        """Have the event loop do something. If it was closed, nobody waits for anything, and the thread ends."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            self._stopping = True

    def _look(self) -> tuple[int | None, int, Statistics]:
        return self._engine.cache_blocks, self._engine.prefix_blocks, self._engine.statistics


def retry_after(waited: float) -> float:
    """Seconds to be told to one who is refused, where the last one has waited so long."""
    return min(max(SHORTEST_RETRY, waited), LONGEST_RETRY)


def _reported(error: Exception) -> GptwoError:
    if isinstance(error, GptwoError):
        return error
    reported = GptwoError(f"a defect of gptwo ended this request: {type(error).__name__}: {one_line(error)}")
    reported.__cause__ = error
    return reported
