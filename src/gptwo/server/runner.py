"""The engine on a thread of its own, and an event loop that asks it for answers.

The thread runs `Engine.step` while there is work, and sleeps otherwise. Both sides own what they change: the engine and
the order of those who wait belong to the thread, answers and tickets to the loop. The loop sends orders through a queue
that they are taken from between two steps; the thread sends one report a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Protocol

from gptwo.engine import Completion, Engine, Event, Failure, Piece, Request, Statistics
from gptwo.engine.request import KeepLogits
from gptwo.errors import (
    DrainingError,
    GptwoError,
    InvalidRequestError,
    QueueFullError,
    QueueTimeoutError,
    one_line,
)
from gptwo.loading import OpenModel
from gptwo.options import integer, number
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.server.ticket import Answer, Ticket

RETRY_AFTER = (1.0, 60.0)  # seconds; the official OpenAI client heeds no longer wait
RESTART = 5.0  # seconds after which a server that ends is likely to be back, or another to have taken over

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """Where a runner stands."""

    running: int
    """Requests that are begun and not answered."""
    waiting: int
    """Requests that are not begun."""
    cache_blocks: int | None
    """Of 64 positions, in use; None if the decoder does not count them."""
    prefix_blocks: int
    """Blocks that are held for prompts to come."""
    statistics: Statistics


class Observer(Protocol):
    """Who is told what happens, on the event loop. Times are in seconds."""

    def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        """Take the function that says how things stand whenever it is called."""

    def begun(self, prompt_tokens: int, waited: float) -> None:
        """A request's turn has come."""

    def tokens(self, count: int) -> None:
        """So many tokens of output were made."""

    def first_token(self, seconds: float) -> None:
        """The first token of a text came so long after the request."""

    def next_token(self, seconds: float) -> None:
        """Another token of a text came so long after the one before."""

    def refused(self, error: GptwoError) -> None:
        """A request was not taken."""

    def ended(self, outcome: Completion | GptwoError | None, seconds: float) -> None:
        """A request was answered, or failed, or (None) was cancelled, so long after it came."""


@dataclass
class _Report:
    """What came of one round of the engine's thread."""

    begun: list[int] = field(default_factory=list)
    begun_at: float = 0.0
    events: Sequence[Event] = ()
    came_at: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)

    def says_anything(self) -> bool:
        return bool(self.begun or self.events or self.failures or self.cancelled)


class Runner:
    """Answers requests, as many at a time as the engine has room for and first come first served.

    max_queue: how many requests may wait for room. max_wait: seconds that one waits before it fails; None is for ever.
    max_sequences, chunk_tokens, prefix_blocks: as `Engine` has them. observer: whom to tell what happens.

    If the thread meets a defect, every request fails, here and from then on, and `alive` is false.
    """

    def __init__(
        self,
        model: OpenModel,
        *,
        max_queue: int = 256,
        max_wait: float | None = None,
        max_sequences: int = 256,
        chunk_tokens: int = 256,
        prefix_blocks: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Raises InvalidRequestError for a number out of range."""
        integer(0)("max_queue", max_queue)
        number(0.0, optional=True)("max_wait", max_wait)
        self.model = model
        self.engine = Engine(
            model.decoder,
            model.tokenizer,
            max_sequences=max_sequences,
            chunk_tokens=chunk_tokens,
            prefix_blocks=prefix_blocks,
        )
        self._max_queue, self._max_wait, self._max_sequences = max_queue, max_wait, max_sequences
        self._observer = observer
        self._answers: dict[int, Answer] = {}  # not over, in the order in which they came
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._last_wait = 0.0  # seconds, of the request that was begun last
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._failure: GptwoError | None = None
        # A SimpleQueue may be put into in the middle of anything, as a finalizer does.
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._stopping = False
        self._waiting: dict[int, float] = {}  # not begun, in order, and when they were submitted
        self._report = _Report()
        self._engine_state = self._look_at_engine()
        if observer is not None:
            observer.watch(self.snapshot)

    # ---- on the event loop

    def start(self) -> None:
        """Begin, on the event loop that runs now."""
        assert self._thread is None, "a runner is started once"
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="gptwo engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs and has met no defect."""
        return self._failure is None and self._thread is not None and self._thread.is_alive()

    @property
    def draining(self) -> bool:
        """Whether no requests are taken any more."""
        return self._draining

    @property
    def running(self) -> int:
        """Requests that are begun and not answered."""
        return sum(answer.begun for answer in self._answers.values())

    @property
    def waiting(self) -> int:
        """Requests that are not begun."""
        return len(self._answers) - self.running

    def snapshot(self) -> Snapshot:
        """How things stand; the engine's part is that of its last step."""
        cache_blocks, prefix_blocks, statistics = self._engine_state
        running = self.running
        return Snapshot(running, len(self._answers) - running, cache_blocks, prefix_blocks, statistics)

    def prepare(
        self, prompt_ids: Sequence[int], params: SamplingParams | BeamParams, keep_logits: KeepLogits = "none"
    ) -> Request:
        """A request that is checked and not submitted yet. Any thread may call this.

        Raises InvalidRequestError or ContextLengthError for what can never be answered.
        """
        return self.engine.prepare(prompt_ids, params, keep_logits=keep_logits)

    def submit(self, requests: Sequence[Request]) -> list[Ticket]:
        """Queue prepared requests, each of them once: all, or none if it raises.

        Raises QueueFullError, DrainingError, InvalidRequestError for more at a time than could ever be taken, and
        GptwoError if the engine's thread has failed.
        """
        try:
            self._refuse(requests)
        except GptwoError as error:
            if self._observer is not None:
                for _ in requests:
                    self._observer.refused(error)
            raise
        now = monotonic()
        answers = [Answer(request, now) for request in requests]
        self._answers.update((answer.request.id, answer) for answer in answers)
        if answers:
            self._empty.clear()
            self._orders.put(partial(self._take, list(requests), now))
        return [Ticket(answer, self._drop) for answer in answers]

    async def drain(self, timeout: float) -> bool:
        """Take no more requests, and wait until all are answered; True if that was so.

        After `timeout` seconds those that are left fail with a DrainingError.
        """
        self._draining = True
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            self._end_all(lambda: DrainingError("the server ended before this answer was complete", RESTART))
            return False
        return True

    async def close(self) -> None:
        """End at once: requests that are left fail with a DrainingError, and the engine holds nothing any more."""
        self._draining = True
        self._end_all(lambda: DrainingError("the server ended before this answer was complete", RESTART))
        self._orders.put(self._stop)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _refuse(self, requests: Sequence[Request]) -> None:
        """Raise if these requests cannot be taken."""
        if self._failure is not None:
            raise self._failure
        if self._draining:
            raise DrainingError("the server is about to end and takes no more requests", RESTART)
        assert self._thread is not None, "a runner is started before it is asked"
        new = [request.width for request in requests]
        if self._without_room(new) > self._max_queue:
            raise InvalidRequestError(
                f"{len(requests)} prompts at a time are more than this server takes: it works on "
                f"{self._max_sequences} texts at a time and lets {self._max_queue} requests wait",
                param="prompt",
            )
        widths = [answer.request.width for answer in self._answers.values() if not answer.dropped]
        if self._without_room(widths + new) > self._max_queue:
            raise QueueFullError(
                f"the server is busy: {self._max_queue} requests may wait, and no more", self._retry_after()
            )

    def _without_room(self, widths: Iterable[int]) -> int:
        """How many requests of these widths, in the order in which they came, the engine has no room for yet.

        This is the engine's own rule. Counted so, requests that are about to be begun do not wait.
        """
        held = without = 0
        for width in widths:
            if without or (held and held + width > self._max_sequences):
                without += 1
            held += width
        return without

    def _retry_after(self) -> float:
        """Seconds after which the queue may have moved on: about what it took the last one to get through it."""
        least, most = RETRY_AFTER
        return min(max(least, self._last_wait), most)

    def _drop(self, request_id: int) -> None:
        """Have a request cancelled; any thread, in the middle of anything."""
        self._orders.put(partial(self._cancel, request_id))

    def _deliver(self, report: _Report) -> None:
        try:
            for request_id in report.begun:
                self._begin(request_id, report.begun_at)
            for event in (*report.events, *report.failures):
                answer = self._answers.get(event.request_id)
                if answer is None:
                    continue  # it is over for the loop, and its cancellation is on its way
                if isinstance(event, Piece):
                    self._add_piece(answer, event, report.came_at)
                elif isinstance(event, Completion):
                    self._end(answer, event)
                else:
                    self._end(answer, event.error)
            for request_id in report.cancelled:
                answer = self._answers.get(request_id)
                if answer is not None:
                    self._end(answer, None)
        except Exception as error:  # noqa: BLE001  # whatever it is, nobody may be left waiting
            self._break(error)
            self._orders.put(self._stop)

    def _begin(self, request_id: int, now: float) -> None:
        answer = self._answers.get(request_id)
        if answer is not None:
            answer.begun = True
            self._last_wait = max(0.0, now - answer.submitted)
            if self._observer is not None:
                self._observer.begun(len(answer.request.prompt_ids), self._last_wait)

    def _add_piece(self, answer: Answer, piece: Piece, now: float) -> None:
        if answer.keeps_pieces and not answer.dropped:
            answer.pieces.append(piece)
            answer.news.set()
        if self._observer is None or not piece.token_ids:
            return
        last = answer.last_token.get(piece.index)
        answer.last_token[piece.index] = now
        self._observer.tokens(len(piece.token_ids))
        if last is None:
            self._observer.first_token(now - answer.submitted)
        else:
            self._observer.next_token(now - last)

    def _end(self, answer: Answer, outcome: Completion | GptwoError | None) -> None:
        del self._answers[answer.request.id]
        if isinstance(outcome, Completion):
            answer.completion = outcome
        elif outcome is not None:
            answer.error = outcome
        answer.news.set()
        if not self._answers:
            self._empty.set()
        if self._observer is not None:
            self._observer.ended(outcome, monotonic() - answer.submitted)

    def _end_all(self, make_error: Callable[[], GptwoError]) -> None:
        for answer in list(self._answers.values()):
            self._drop(answer.request.id)
            self._end(answer, make_error())

    def _break(self, error: BaseException) -> None:
        """Fail everything because of a defect."""
        logger.error("a defect of gptwo ended the engine", exc_info=error)
        message = f"a defect of gptwo ended the engine: {type(error).__name__}: {one_line(error)}"
        self._failure = GptwoError(message)
        for answer in list(self._answers.values()):
            with contextlib.suppress(Exception):  # an observer may be what is broken
                self._end(answer, GptwoError(message))

    # ---- on the engine's thread

    def _work(self) -> None:
        assert self._loop is not None
        try:
            while self._obey():
                self._step()
                self._tell()
        except BaseException as error:  # noqa: BLE001  # whatever it is, nobody may be left waiting
            self._call(partial(self._break, error))
        finally:
            # What the engine holds is freed as far as that goes; after a defect it may not.
            with contextlib.suppress(Exception):
                self.engine.close()
                self._engine_state = self._look_at_engine()

    def _obey(self) -> bool:
        """Do what was ordered since, and wait for an order if there is nothing else to do. False: stop."""
        idle = not self.engine.has_work()
        while idle or not self._orders.empty():
            self._orders.get()()
            idle = False
        return not self._stopping

    def _take(self, requests: Sequence[Request], submitted: float) -> None:
        for request in requests:
            try:
                self.engine.submit(request)
            except Exception as error:  # noqa: BLE001  # whatever it is, the others go on
                self._report.failures.append(Failure(request.id, _reported(error)))
            else:
                self._waiting[request.id] = submitted

    def _cancel(self, request_id: int) -> None:
        self.engine.cancel(request_id)
        self._waiting.pop(request_id, None)
        self._report.cancelled.append(request_id)

    def _stop(self) -> None:
        self._stopping = True

    def _step(self) -> None:
        report = self._report
        if self.engine.has_work():
            report.begun_at = monotonic()
            report.events = self.engine.step()
            report.came_at = monotonic()
        while len(self._waiting) > self.engine.waiting:  # which begins them in the same order
            first = next(iter(self._waiting))
            del self._waiting[first]
            report.begun.append(first)
        self._expire(report)

    def _expire(self, report: _Report) -> None:
        """Fail those who have waited too long; nobody who comes first to an engine with room ever does."""
        while self._waiting and self._max_wait is not None:
            first, submitted = next(iter(self._waiting.items()))
            waited = report.came_at - submitted
            if waited <= self._max_wait:
                return
            self.engine.cancel(first)
            del self._waiting[first]
            message = f"the server is busy: the request waited for {waited:.1f} seconds and was not begun"
            retry_after = min(max(RETRY_AFTER[0], waited), RETRY_AFTER[1])
            report.failures.append(Failure(first, QueueTimeoutError(message, retry_after)))

    def _tell(self) -> None:
        self._engine_state = self._look_at_engine()
        if self._report.says_anything():
            self._call(partial(self._deliver, self._report))
            self._report = _Report()

    def _call(self, function: Callable[[], None]) -> None:
        """Have the event loop do something. If it was closed, nobody waits for anything, and the thread ends."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            if not self._loop.is_closed():
                raise
            self._stopping = True

    def _look_at_engine(self) -> tuple[int | None, int, Statistics]:
        engine = self.engine
        return engine.cache_blocks, engine.prefix_blocks, engine.statistics


def _reported(error: Exception) -> GptwoError:
    if isinstance(error, GptwoError):
        return error
    reported = GptwoError(f"a defect of gptwo ended this request: {type(error).__name__}: {one_line(error)}")
    reported.__cause__ = error
    return reported
