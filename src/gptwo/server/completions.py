"""`POST /v1/completions`: prompts in, texts out, at once or as a stream."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptwo.engine import Choice, Completion, Piece, Request, TokenLogprob
from gptwo.errors import GptwoError
from gptwo.loading import OpenModel
from gptwo.sampling import SamplingParams
from gptwo.server.bodies import parse, read_body
from gptwo.server.failures import json_response
from gptwo.server.log import record_of
from gptwo.server.logprobs import Described, LogprobLists, prompt_tokens, vllm_prompt_logprobs
from gptwo.server.parameters import Params, Prompt, encode_prompt, params_of, prompts_of
from gptwo.server.runner import Runner
from gptwo.server.schemas import CompletionRequest
from gptwo.server.service import Service
from gptwo.server.sse import EventStream, event, unless_gone
from gptwo.server.ticket import Ticket
from gptwo.version import __version__

FINGERPRINT = f"gptwo-{__version__}"


@dataclass(frozen=True)
class Asked:
    """A request that can be answered: its body, and each prompt as the engine takes it."""

    body: CompletionRequest
    params: Params
    """As they were asked for."""
    model: OpenModel
    prompts: list[PromptAsked]
    head: dict[str, Any]
    """What every answer to it begins with."""

    @property
    def n(self) -> int:
        """Texts for each prompt."""
        params = self.params
        return params.n if isinstance(params, SamplingParams) else params.num_return_sequences

    @property
    def logprobs(self) -> int | None:
        """Alternatives for each token, if log-probabilities were asked for."""
        return self.params.logprobs if isinstance(self.params, SamplingParams) else None

    @property
    def scores_prompts(self) -> bool:
        """Whether the prompts are given back with their log-probabilities."""
        return bool(self.body.echo) and self.logprobs is not None

    def lists(self) -> LogprobLists:
        """Where the log-probabilities of one text go."""
        return LogprobLists(self.model.tokenizer, as_ids=bool(self.body.return_tokens_as_token_ids))

    def usage(self, completion_tokens: int) -> dict[str, int]:
        """OpenAI's count of tokens, with so many of output."""
        prompt_tokens = sum(len(prompt.request.prompt_ids) for prompt in self.prompts)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }


@dataclass(frozen=True)
class PromptAsked:
    """One prompt of a request."""

    text: str
    """What `echo` gives back."""
    implied: bool
    """Whether the prompt was empty, so that its one token is no part of the text."""
    request: Request
    scoring: Request | None
    """For a stream that begins with the prompt's log-probabilities: the request for those alone."""


async def create_completion(service: Service, http: HttpRequest) -> Response:
    """Answer a request to continue prompts."""
    settings, runner = service.settings, service.runner
    data = await read_body(http, most=settings.max_body, timeout=settings.body_timeout)
    fields = record_of(http.scope)
    asked = await service.prepare(_ask, service, runner, data)
    fields |= {"id": asked.head["id"], "prompts": len(asked.prompts), "stream": bool(asked.body.stream)}
    fields["prompt_tokens"] = asked.usage(0)["prompt_tokens"]
    if settings.log_prompts:
        fields["prompt"] = asked.body.prompt
    if asked.body.stream:
        return EventStream(
            _events(asked, runner, fields),
            keep_alive=settings.keep_alive_interval,
            on_error=lambda error: fields.update(error=type(error).__name__),
        )
    return json_response(await unless_gone(http.receive, _answer(asked, runner, fields)))


def _ask(service: Service, runner: Runner, data: bytes) -> Asked:
    """Read and check all of a request; on a thread of its own, since texts may be long."""
    body = parse(CompletionRequest, data)
    name = service.check_name(body.model)
    model, settings = runner.model, service.settings
    params = params_of(body, settings, model.config.n_positions)
    prompts = prompts_of("prompt", body.prompt, settings.max_prompts)
    asked = [_ask_prompt(runner, prompt, body, params) for prompt in prompts]
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": name,
        "system_fingerprint": FINGERPRINT,
    }
    return Asked(body, params, model, asked, head)


def _ask_prompt(runner: Runner, prompt: Prompt, body: CompletionRequest, params: Params) -> PromptAsked:
    model = runner.model
    ids = encode_prompt(model, prompt, body, params)
    scoring = None
    if body.echo and isinstance(params, SamplingParams) and params.logprobs is not None:
        if body.stream:
            scores = SamplingParams(max_tokens=0, prompt_logprobs=params.logprobs)
            scoring = runner.prepare(ids, scores)
        else:
            most = max(params.logprobs, params.prompt_logprobs or 0)
            params = dataclasses.replace(params, prompt_logprobs=most)
    request = runner.prepare(ids, params)
    text = ""
    if body.echo:
        whole = isinstance(prompt, str) and body.truncate_prompt_tokens is None
        text = prompt if whole else "" if model.tokenizer is None else model.tokenizer.decode(ids)  # type: ignore[assignment]
    return PromptAsked(text, not ids, request, scoring)


# ---- at once


async def _answer(asked: Asked, runner: Runner, fields: dict[str, Any]) -> dict[str, Any]:
    tickets = runner.submit([prompt.request for prompt in asked.prompts])
    try:
        completions = [await ticket.completion() for ticket in tickets]
    finally:
        _cancel(tickets)
    choices = [
        choice
        for number, (prompt, completion) in enumerate(zip(asked.prompts, completions, strict=True))
        for choice in _choices(asked, number, prompt, completion)
    ]
    tokens = sum(len(choice.token_ids) for completion in completions for choice in completion.choices)
    fields["completion_tokens"] = tokens
    return {**asked.head, "choices": choices, "usage": asked.usage(tokens)}


def _choices(asked: Asked, number: int, prompt: PromptAsked, completion: Completion) -> list[dict[str, Any]]:
    known = completion.prompt_logprobs or ()
    shown = []
    for choice in completion.choices:
        value = {
            "index": number * asked.n + choice.index,
            "text": prompt.text + choice.text,
            "logprobs": _choice_logprobs(asked, prompt, known, choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if asked.body.prompt_logprobs is not None:
            value["prompt_logprobs"] = vllm_prompt_logprobs(asked.lists(), _cut(known, asked.body.prompt_logprobs))
        if asked.body.return_token_ids:
            value["token_ids"] = choice.token_ids
            value["prompt_token_ids"] = completion.prompt_token_ids
        shown.append(value)
    return shown


def _choice_logprobs(
    asked: Asked, prompt: PromptAsked, known: Sequence[TokenLogprob | None], choice: Choice
) -> dict[str, Any] | None:
    if asked.logprobs is None:
        return None
    assert choice.logprobs is not None
    lists = asked.lists()
    first = _prompt_lists(lists, prompt, _cut(known, asked.logprobs)) if asked.scores_prompts else {}
    lists.begin(len(prompt.text), skip_special=True)
    rest = lists.lists(Described(token.token_id, token) for token in choice.logprobs)
    return {name: [*first.get(name, ()), *values] for name, values in rest.items()}


def _prompt_lists(
    lists: LogprobLists, prompt: PromptAsked, known: Sequence[TokenLogprob | None]
) -> dict[str, Any]:
    lists.begin(0, skip_special=prompt.implied)
    return lists.lists(prompt_tokens(prompt.request.prompt_ids, known))


def _cut(known: Sequence[TokenLogprob | None], most: int) -> list[TokenLogprob | None]:
    """The same with no more alternatives than that."""
    return [token and dataclasses.replace(token, top=token.top[:most]) for token in known]


# ---- as a stream


async def _events(asked: Asked, runner: Runner, fields: dict[str, Any]) -> AsyncGenerator[bytes]:
    stream = _Stream(asked, fields)
    scoring = [prompt.scoring for prompt in asked.prompts if prompt.scoring is not None]
    tickets = runner.submit([*scoring, *(prompt.request for prompt in asked.prompts)])
    try:
        scores = [await ticket.completion() for ticket in tickets[: len(scoring)]]
        for data in stream.prompts(scores):
            yield data
        async with contextlib.aclosing(_merged(tickets[len(scoring) :])) as items:
            async for number, item in items:
                data = stream.piece(number, item)
                if data:
                    yield data
    finally:
        _cancel(tickets)
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

    def prompts(self, scores: Sequence[Completion]) -> list[bytes]:
        """The prompts, where they are given back: one event for each choice. scores: their log-probabilities."""
        if not self._asked.body.echo:
            return []
        return [
            self._echo(number * self._asked.n + index, prompt, scores[number] if scores else None)
            for number, prompt in enumerate(self._asked.prompts)
            for index in range(self._asked.n)
        ]

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
            logprobs = _prompt_lists(lists, prompt, score.prompt_logprobs or ())
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
        async for item in _pieces(tickets[0]):
            yield 0, item
        return
    arrived: asyncio.Queue[tuple[int, Piece] | GptwoError | None] = asyncio.Queue()

    async def forward(number: int, ticket: Ticket) -> None:
        try:
            async for item in _pieces(ticket):
                arrived.put_nowait((number, item))
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


def _cancel(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.cancel()
