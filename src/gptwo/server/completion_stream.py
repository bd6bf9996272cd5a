"""A completion as server-sent events, while it is made."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from gptwo.engine import Completion, Piece
from gptwo.errors import GptwoError
from gptwo.server.asked import Asked, PromptAsked
from gptwo.server.logprobs import Described
from gptwo.server.runner import Runner
from gptwo.server.service import submitted
from gptwo.server.sse import event
from gptwo.server.ticket import Ticket


async def completion_events(asked: Asked, runner: Runner, fields: dict[str, Any]) -> AsyncGenerator[bytes]:
    """The events of the answer, without the last `[DONE]`. What is left of the work ends with the generator.

    fields: those of the request's line in the log.
    """
    stream = _Stream(asked, fields)
    scoring = [prompt.scoring for prompt in asked.prompts if prompt.scoring is not None]
    with submitted(runner, [*scoring, *(prompt.request for prompt in asked.prompts)]) as tickets:
        scores = [await ticket.completion() for ticket in tickets[: len(scoring)]]
        for data in stream.prompts(scores):
            yield data
            await asyncio.sleep(0)  # a long prompt takes milliseconds
        async with contextlib.aclosing(_merged(tickets[len(scoring) :])) as items:
            async for number, item in items:
                data = stream.piece(number, item)
                if data:
                    yield data
    if stream.includes_usage:
        yield event({**asked.head, "choices": [], "usage": asked.usage(stream.tokens)})


class _Stream:
    """Turns pieces into events, and counts them."""

    def __init__(self, asked: Asked, fields: dict[str, Any]) -> None:
        options = asked.body.stream_options
        self.includes_usage = bool(options and options.include_usage)
        self._continuous = self.includes_usage and bool(options and options.continuous_usage_stats)
        self._asked, self._fields = asked, fields
        self._lists = [asked.lists() for _ in range(len(asked.prompts) * asked.n)]
        self._begun = [False] * len(self._lists)
        self._silent = asked.logprobs is None and not asked.body.return_token_ids
        self.tokens = 0
        fields["completion_tokens"] = 0

    def prompts(self, scores: Sequence[Completion]) -> Iterator[bytes]:
        """The prompts, where they are given back: one event for each choice. scores: their log-probabilities."""
        for number, prompt in enumerate(self._asked.prompts if self._asked.body.echo else ()):
            for index in range(self._asked.n):
                yield self._echo(number * self._asked.n + index, prompt, scores[number] if scores else None)

    def piece(self, number: int, piece: Piece) -> bytes:
        """What a piece of prompt `number`'s answer adds; nothing if that is nothing."""
        self.tokens += len(piece.token_ids)
        self._fields["completion_tokens"] = self.tokens
        if self._silent and not piece.text and piece.finish_reason is None:
            return b""
        index = number * self._asked.n + piece.index
        logprobs = None
        if piece.logprobs is not None:
            logprobs = self._lists[index].lists(Described(token.token_id, token) for token in piece.logprobs)
        return self._event(index, piece.text, logprobs, piece.finish_reason, piece.stop_reason, piece.token_ids)

    def _echo(self, index: int, prompt: PromptAsked, score: Completion | None) -> bytes:
        logprobs, lists = None, self._lists[index]
        if score is not None:
            logprobs = prompt.lists(lists, score.prompt_logprobs or ())
        lists.begin(len(prompt.text), skip_special=True)
        return self._event(index, prompt.text, logprobs, None, None, ())

    def _event(
        self,
        index: int,
        text: str,
        logprobs: Mapping[str, Any] | None,
        finish_reason: str | None,
        stop_reason: str | int | None,
        token_ids: Sequence[int],
    ) -> bytes:
        asked = self._asked
        choice: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
            "stop_reason": stop_reason,
        }
        if asked.body.return_token_ids:
            if not self._begun[index]:
                choice["prompt_token_ids"] = asked.prompts[index // asked.n].request.prompt_ids
            choice["token_ids"] = token_ids
            self._begun[index] = True
        value = {**asked.head, "choices": [choice]}
        if self.includes_usage:
            value["usage"] = asked.usage(self.tokens) if self._continuous else None
        return event(value)


async def _merged(tickets: Sequence[Ticket]) -> AsyncGenerator[tuple[int, Piece]]:
    """The pieces of several answers as they come, each with its answer's number; the first error ends them."""
    if len(tickets) == 1:  # nearly always
        async for piece in _pieces(tickets[0]):
            yield 0, piece
        return
    arrived: asyncio.Queue[tuple[int, Piece] | GptwoError | None] = asyncio.Queue()

    async def forward(number: int, ticket: Ticket) -> None:
        try:
            async for piece in _pieces(ticket):
                arrived.put_nowait((number, piece))
            arrived.put_nowait(None)
        except GptwoError as error:
            arrived.put_nowait(error)

    tasks = [asyncio.ensure_future(forward(number, ticket)) for number, ticket in enumerate(tickets)]
    try:
        open_answers = len(tasks)
        while open_answers:
            item = await arrived.get()
            if isinstance(item, GptwoError):
                raise item
            if item is None:
                open_answers -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pieces(ticket: Ticket) -> AsyncIterator[Piece]:
    async for item in ticket:
        if isinstance(item, Piece):
            yield item
