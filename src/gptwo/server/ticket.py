"""What one who made a request holds: the answer, as it comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from gptwo.engine import Completion, Piece, Request
from gptwo.errors import GptwoError


@dataclass(slots=True, eq=False)
class Answer:
    """What has come of a request so far. The runner fills it and its ticket reads it, both on the event loop."""

    request: Request
    submitted: float
    """On the clock of `time.monotonic`, as all moments here."""
    begun: bool = False
    pieces: deque[Piece] = field(default_factory=deque)
    """Not read yet. There are at most as many as the request may have tokens, however slowly they are read."""
    keeps_pieces: bool = True
    last_token: dict[int, float] = field(default_factory=dict)
    """When the newest token of each text came."""
    dropped: bool = False
    """Whether nobody waits for it any more."""
    completion: Completion | None = None
    error: GptwoError | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.completion is not None or self.error is not None or self.dropped

    def add(self, piece: Piece) -> None:
        """Another piece has come."""
        if self.keeps_pieces and not self.dropped:
            self.pieces.append(piece)
            self.news.set()

    def end(self, outcome: Completion | GptwoError | None) -> None:
        """Nothing more will come; None if the request was cancelled."""
        if isinstance(outcome, Completion):
            self.completion = outcome
        elif outcome is not None:
            self.error = outcome
        self.news.set()


class Ticket:
    """An asynchronous iterator over a request's pieces, as they are made, and at last its completion.

    It raises the error that the request ended with, behind the pieces that came before. Pieces that nobody reads are
    kept, up to `max_tokens` of them for each text, and hold up nobody else's. A ticket that is cancelled, closed, or
    forgotten before its end frees what its request holds before the engine's next step but one. But for being
    forgotten, it is used on the event loop only.
    """

    def __init__(self, answer: Answer, drop: Callable[[int], None]) -> None:
        """drop: how to tell the engine's thread that nobody waits any more; called at most once, by any thread."""
        self._answer, self._drop = answer, drop
        self._told = False  # whether the completion has been given

    @property
    def request(self) -> Request:
        """What was asked."""
        return self._answer.request

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece | Completion:
        answer = self._answer
        while not answer.pieces and not answer.over:
            await self._news()
        if answer.dropped:
            raise StopAsyncIteration
        if answer.pieces:
            return answer.pieces.popleft()
        if answer.error is not None:
            raise answer.error
        if self._told or answer.completion is None:
            raise StopAsyncIteration
        self._told = True
        return answer.completion

    async def completion(self) -> Completion:
        """The whole answer; the pieces are let go. Whoever is cancelled while waiting here cancels the request.

        Raises the error that the request ended with.
        """
        answer = self._answer
        answer.keeps_pieces = False
        answer.pieces.clear()
        try:
            while not answer.over:
                await self._news()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if answer.error is not None:
            raise answer.error
        if answer.completion is None:
            raise GptwoError("the request was cancelled before its answer was complete")
        return answer.completion

    def cancel(self) -> None:
        """Let go of the request: its memory is freed within a step of the engine, and the iterator ends."""
        self._let_go()
        self._answer.news.set()

    async def aclose(self) -> None:
        """The same as `cancel`, for `contextlib.aclosing`."""
        self.cancel()

    def __del__(self) -> None:
        # The garbage collector may be at work in any thread, and nobody waits for news here.
        self._let_go()

    def _let_go(self) -> None:
        if not self._answer.over:
            self._answer.dropped = True
            self._drop(self._answer.request.id)

    async def _news(self) -> None:
        self._answer.news.clear()
        await self._answer.news.wait()
