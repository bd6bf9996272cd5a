"""The engine on a thread of its own, and an event loop that asks it for answers.

The loop gives the thread its orders and gets one report a step; answers and tickets belong to the loop. So the thread
does nothing for a token but make it, and the loop is woken once a step, however many texts are under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterable, Sequence
from time import monotonic

from gptwo.engine import Completion, Engine, Failure, Piece, Request
from gptwo.engine.request import KeepLogits
from gptwo.errors import DrainingError, GptwoError, InvalidRequestError, QueueFullError, one_line
from gptwo.loading import OpenModel
from gptwo.options import integer, number
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.server.engine_thread import EngineThread, Report, retry_after
from gptwo.server.observer import Observer, Snapshot
from gptwo.server.ticket import Answer, Ticket

RESTART = 5.0  # seconds after which a server that ends is likely to be back, or another to have taken over

logger = logging.getLogger(__name__)


class Runner:
    """Answers requests, as many at a time as the engine has room for and first come first served.

    max_queue: how many requests may wait for room. max_wait: seconds that one waits before it fails; None is for ever.
    max_sequences, chunk_tokens, prefix_blocks, max_blocks: as `Engine` has them. observer: whom to tell what happens.

    Everything but `prepare` and `snapshot` is for the event loop only. If the thread meets a defect, every request
    fails, here and from then on, and `alive` is false.
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
        max_blocks: int | None = None,
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
            max_blocks=max_blocks,
        )
        self._max_blocks = math.inf if max_blocks is None else max_blocks
        self._max_queue, self._max_sequences, self._observer = max_queue, max_sequences, observer
        self._thread = EngineThread(self.engine, max_wait=max_wait, deliver=self._deliver, broken=self._break)
        self._answers: dict[int, Answer] = {}  # not over, in the order in which they came
        self._empty = asyncio.Event()
        self._empty.set()
        self._draining = False
        self._last_wait = 0.0  # seconds, of the request that was begun last
        self._failure: GptwoError | None = None
        if observer is not None:
            observer.watch(self.snapshot)

    def start(self) -> None:
        """Begin, on the event loop that runs now; once."""
        self._thread.start(asyncio.get_running_loop())

    @property
    def alive(self) -> bool:
        """Whether the engine's thread runs and has met no defect."""
        return self._failure is None and self._thread.alive

    @property
    def draining(self) -> bool:
        """Whether no requests are taken any more."""
        return self._draining

    @property
    def running(self) -> int:
        """Requests that are begun and not answered, as of the last step."""
        return sum(answer.begun for answer in list(self._answers.values()))

    @property
    def waiting(self) -> int:
        """Requests that were not begun by the last step."""
        return len(self._answers) - self.running

    @property
    def full(self) -> bool:
        """Whether a request of one text would be refused because too many wait."""
        return self._without_room([*self._sizes(), (1, 1)]) > self._max_queue

    def snapshot(self) -> Snapshot:
        """How things stand, as of the last step."""
        cache_blocks, prefix_blocks, statistics = self._thread.state
        return Snapshot(self.running, self.waiting, cache_blocks, prefix_blocks, statistics)

    # ---- requests

    def prepare(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | BeamParams,
        keep_logits: KeepLogits = "none",
        like: Request | None = None,
    ) -> Request:
        """A request that is checked and not submitted yet. Any thread may call this.

        Raises InvalidRequestError or ContextLengthError for what can never be answered.
        """
        return self.engine.prepare(prompt_ids, params, keep_logits=keep_logits, like=like)

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
            self._thread.submit(list(requests), now)
        return [Ticket(answer, self._thread.cancel) for answer in answers]

    def _refuse(self, requests: Sequence[Request]) -> None:
        """Raise if these requests cannot be taken."""
        if self._failure is not None:
            raise GptwoError(str(self._failure))
        if self._draining:
            raise DrainingError("the server is about to end and takes no more requests", RESTART)
        new = [self._size(request) for request in requests]
        if self._without_room(new) > self._max_queue:
            raise InvalidRequestError(
                f"{len(requests)} prompts at a time are more than this server takes: it works on "
                f"{self._max_sequences} texts at a time and lets {self._max_queue} requests wait",
                param="prompt",
            )
        if self._without_room([*self._sizes(), *new]) > self._max_queue:
            raise QueueFullError(
                f"the server is busy: {self._max_queue} requests may wait, and no more", retry_after(self._last_wait)
            )

    def _sizes(self) -> list[tuple[int, int]]:
        return [self._size(answer.request) for answer in self._answers.values() if not answer.dropped]

    def _size(self, request: Request) -> tuple[int, int]:
        return request.width, request.blocks(self.model.config.n_positions)

    def _without_room(self, sizes: Iterable[tuple[int, int]]) -> int:
        """How many requests of so many texts and blocks, in the order in which they came, have no room yet.

        This is the engine's own rule. Counted so, requests that are about to be begun do not wait.
        Example: with room for 4 texts, of requests of 3, 1, 2 and 1 the last two have none.
        """
        held = held_blocks = without = 0
        for width, blocks in sizes:
            beyond = held + width > self._max_sequences or held_blocks + blocks > self._max_blocks
            if without or (held and beyond):
                without += 1
            held, held_blocks = held + width, held_blocks + blocks
        return without

    # ---- the end

    async def drain(self, timeout: float) -> bool:
        """Take no more requests, and wait until all are answered; True if that was so.

        After `timeout` seconds those that are left fail with a DrainingError.
        """
        self._draining = True
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            self._end_all()
            return False
        return True

    async def close(self) -> None:
        """End at once: requests that are left fail with a DrainingError, and the engine holds nothing any more."""
        self._draining = True
        self._end_all()
        self._thread.stop()
        await asyncio.to_thread(self._thread.join)

    def _end_all(self) -> None:
        for answer in list(self._answers.values()):
            self._thread.cancel(answer.request.id)
            self._end(answer, DrainingError("the server ended before this answer was complete", RESTART))

    # ---- what comes of requests

    def _deliver(self, report: Report) -> None:
        try:
            for request_id in report.begun:
                self._begin(request_id, report.begun_at)
            if self._observer is not None and report.events:
                self._observer.tokens(sum(len(event.token_ids) for event in report.events if isinstance(event, Piece)))
            for event in (*report.events, *report.failures):
                answer = self._answers.get(event.request_id)
                if answer is None:
                    continue  # it is over for the loop, and its cancellation is on its way
                if isinstance(event, Piece):
                    self._add_piece(answer, event, report.came_at)
                elif isinstance(event, Completion):
                    self._end(answer, event)
                elif isinstance(event, Failure):
                    self._end(answer, event.error)
            for request_id in report.cancelled:
                answer = self._answers.get(request_id)
                if answer is not None:
                    self._end(answer, None)
        except Exception as error:  # noqa: BLE001  # whatever it is, nobody may be left waiting
            self._break(error)
            self._thread.stop()

    def _begin(self, request_id: int, now: float) -> None:
        answer = self._answers.get(request_id)
        if answer is not None:
            answer.begun = True
            self._last_wait = max(0.0, now - answer.submitted)
            if self._observer is not None:
                self._observer.begun(len(answer.request.prompt_ids), self._last_wait)

    def _add_piece(self, answer: Answer, piece: Piece, now: float) -> None:
        answer.add(piece)
        if self._observer is None or not piece.token_ids:
            return
        last = answer.last_token.get(piece.index)
        answer.last_token[piece.index] = now
        if last is None:
            self._observer.first_token(now - answer.submitted)
        else:
            self._observer.next_token(now - last)

    def _end(self, answer: Answer, outcome: Completion | GptwoError | None) -> None:
        del self._answers[answer.request.id]
        answer.end(outcome)
        if not self._answers:
            self._empty.set()
        if self._observer is not None:
            self._observer.ended(outcome, monotonic() - answer.submitted)

    def _break(self, error: BaseException) -> None:
        """Fail everything because of a defect."""
        logger.error("a defect of gptwo ended the engine", exc_info=error)
        message = f"a defect of gptwo ended the engine: {type(error).__name__}: {one_line(error)}"
        self._failure = GptwoError(message)
        for answer in list(self._answers.values()):
            with contextlib.suppress(Exception):  # an observer may be what is broken
                self._end(answer, GptwoError(message))
