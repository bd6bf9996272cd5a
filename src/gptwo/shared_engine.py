"""One engine for several threads: whoever waits for an answer runs its steps, in turn with all others who wait."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from gptwo.engine import Engine, Event, Failure, Piece
from gptwo.engine.request import KeepLogits
from gptwo.errors import DecoderError
from gptwo.sampling import BeamParams, SamplingParams

Result = TypeVar("Result")


class SharedEngine:
    """Requests of several threads, each with an inbox for its events; nothing is left behind by an interruption.

    A process that is forked has it too. If another thread had a turn at that moment, nothing is under way in it.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        """name: what its errors call it."""
        self.name = name
        self._begin(engine)
        _SHARED.add(self)

    def _begin(self, engine: Engine) -> None:
        self.engine = engine
        # Only a lock that knows its owner can be released for certain by one who was interrupted while taking it.
        self._door, self._lock = threading.Lock(), threading.RLock()
        self._owner: int | None = None  # the thread that has a turn
        self._arrived: deque[Event] = deque()  # from the engine, and not in an inbox yet
        self._inbox: dict[int, deque[Event]] = {}
        self._streamed: set[int] = set()
        self._dropped: deque[int] = deque()

    # ---- requests

    def add(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[SamplingParams | BeamParams],
        *,
        keep: KeepLogits = "none",
        streamed: bool = False,
    ) -> list[int]:
        """Queue prompts of token ids, all or none, and give their numbers. Errors as in `Engine.add`.

        streamed: whether pieces of the texts are wanted, not the whole only.
        """
        requests: list[int] = []

        def add_all() -> None:
            for ids, wanted in zip(prompts, params, strict=True):
                request = self.engine.add(ids, wanted, keep_logits=keep)
                requests.append(request)
                self._inbox[request] = deque()
            if streamed:
                self._streamed.update(requests)

        try:
            self._turn(add_all)
        except BaseException:
            self.drop(requests)
            raise
        return requests

    def ask(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]], shares: bool, pending: deque[int]
    ) -> None:
        """Queue a question (see `Engine.prepare_scoring`), and its number with `pending`."""

        def add() -> None:
            request = self.engine.prepare_scoring(context, continuations, shares=shares)
            pending.append(request.id)
            self._inbox[request.id] = deque()
            self.engine.submit(request)

        self._turn(add)

    def events(self, request: int) -> Iterator[Event]:
        """The events of one request, running the engine for all of them meanwhile; they end if it is dropped.

        A Failure is raised as the error that it holds.
        """
        while True:
            events = self._turn(lambda: self._next(request))
            if events is None:
                return
            for event in events:
                if isinstance(event, Failure):
                    raise event.error
                yield event

    def drop(self, requests: Sequence[int]) -> None:
        """Cancel requests, at once or at the end of the turn that somebody has.

        This never waits: a stream that was forgotten is closed by the garbage collector, which may do so in the middle
        of a turn of the same thread.
        """
        self._dropped.extend(requests)
        self._cancel_dropped()

    def clear(self) -> None:
        """Drop every request, and what is held of earlier texts."""

        def drop_all() -> None:
            self._dropped.extend(self._inbox)
            self.engine.clear_prefixes()

        self._turn(drop_all)

    # ---- turns

    def _turn(self, work: Callable[[], Result]) -> Result:
        """Do `work` with the engine for this thread alone. What is dropped meanwhile is cancelled at the end.

        A signal may raise KeyboardInterrupt behind any call, also between taking the lock and noting that it is taken,
        and at the beginning of any function. So whether to release it is asked of the lock itself, and it is released
        here, not in a function or a context manager of ours.
        """
        thread = threading.get_ident()
        if self._owner == thread:  # a signal handler or a finalizer, in the middle of a step
            raise DecoderError(f"{self.name} was called from within its own work, which cannot wait for itself")
        try:
            # One who waits stands in the door, so that a thread that comes back at once cannot overtake it.
            with self._door:
                self._lock.acquire()
            self._owner = thread
            return work()
        finally:
            if self._owner == thread:
                self._owner = None
            try:  # noqa: SIM105  # the context manager is a function of Python's
                self._lock.release()
            except RuntimeError:  # it was never taken
                pass
            self._cancel_dropped()

    def _cancel_dropped(self) -> None:
        # Whoever has the lock comes here after releasing it, so that nothing is left behind where it cannot be had.
        thread = threading.get_ident()
        while self._dropped and self._owner != thread:
            try:
                if not self._lock.acquire(blocking=False):
                    return
                self._owner = thread
                while self._dropped:
                    request = self._dropped[0]  # taken out at the end, so that it is done again if it is interrupted
                    self._inbox.pop(request, None)
                    self._streamed.discard(request)
                    self.engine.cancel(request)
                    self._dropped.popleft()
            finally:  # as in `_turn`
                if self._owner == thread:
                    self._owner = None
                try:  # noqa: SIM105
                    self._lock.release()
                except RuntimeError:
                    pass

    def _next(self, request: int) -> list[Event] | None:
        """An event of a request, or none but a step nearer to it; None if the request was dropped."""
        self._deliver()  # what a turn that was interrupted has left
        inbox = self._inbox.get(request)
        if inbox is None:
            return None
        if inbox:
            return [inbox.popleft()]
        if not self.engine.knows(request):
            raise DecoderError(f"{self.name} lost this request in an interruption; ask again")
        self._arrived.extend(self.engine.step())
        self._deliver()
        return []

    def _deliver(self) -> None:
        while self._arrived:
            event = self._arrived[0]  # taken out at the end, so that an interruption loses none
            inbox = self._inbox.get(event.request_id)
            if inbox is None:
                self.engine.cancel(event.request_id)  # whoever asked was interrupted before it had the number
                self._arrived.popleft()
                continue
            wanted = event.request_id in self._streamed or not isinstance(event, Piece)
            if wanted and not (inbox and inbox[-1] is event):
                inbox.append(event)
            self._arrived.popleft()

    # ---- forks

    def _renew_after_fork(self) -> None:
        """In a forked process, before anything else there: nobody gives back what other threads had."""
        if self._lock.acquire(blocking=False):  # it was nobody's turn, or this thread's
            self._lock.release()
            self._door = threading.Lock()
        else:
            self._begin(self.engine.renewed())


_SHARED: weakref.WeakSet[SharedEngine] = weakref.WeakSet()


def _renew_all() -> None:
    for shared in list(_SHARED):
        shared._renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
