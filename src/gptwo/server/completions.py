"""`POST /v1/completions`: prompts in, texts out, at once or as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptwo.engine import Choice, Completion, TokenLogprob
from gptwo.server.asked import Asked, PromptAsked, ask, fewer
from gptwo.server.bodies import parse, read_body
from gptwo.server.completion_stream import completion_events
from gptwo.server.json_answers import json_bytes, with_list
from gptwo.server.log import record_of
from gptwo.server.logprobs import Described, vllm_prompt_logprobs
from gptwo.server.runner import Runner
from gptwo.server.schemas import CompletionRequest
from gptwo.server.service import Service, submitted
from gptwo.server.sse import EventStream, unless_gone


async def create_completion(service: Service, http: HttpRequest) -> Response:
    """Answer a request to continue prompts."""
    settings, fields = service.settings, record_of(http.scope)
    with service.counting_refusals():
        runner = service.runner
        data = await read_body(http, most=settings.max_body, timeout=settings.body_timeout)
        body = await service.prepare(parse, CompletionRequest, data)
        shaped = body.structured_outputs is not None or body.response_format is not None
        asked = await (service.compile if shaped else service.prepare)(ask, service, runner, body)
    fields |= {"id": asked.head["id"], "prompts": len(asked.prompts), "stream": bool(asked.body.stream)}
    fields["prompt_tokens"] = asked.usage(0)["prompt_tokens"]
    if settings.log_prompts:
        fields["prompt"] = asked.body.prompt
    if asked.body.stream:
        return EventStream(
            completion_events(asked, runner, fields),
            keep_alive=settings.keep_alive_interval,
            on_error=lambda error: fields.update(error=type(error).__name__),
        )
    content = await unless_gone(http.receive, _answer(asked, service, runner, fields))
    return Response(content, media_type="application/json")


async def _answer(asked: Asked, service: Service, runner: Runner, fields: dict[str, Any]) -> bytes:
    with submitted(runner, [prompt.request for prompt in asked.prompts]) as tickets:
        completions = [await ticket.completion() for ticket in tickets]
    tokens = sum(len(choice.token_ids) for completion in completions for choice in completion.choices)
    fields["completion_tokens"] = tokens
    if asked.logprobs is None and asked.body.prompt_logprobs is None:
        return _written(asked, completions, tokens)
    return await service.in_thread(_written, asked, completions, tokens)  # they may be many


def _written(asked: Asked, completions: Sequence[Completion], tokens: int) -> bytes:
    """The answer's JSON, choice by choice, since other threads wait while one piece is written."""
    choices = (
        choice
        for number, (prompt, completion) in enumerate(zip(asked.prompts, completions, strict=True))
        for choice in _choices(asked, number, prompt, completion)
    )
    return with_list(asked.head, "choices", map(json_bytes, choices), usage=asked.usage(tokens))


def _choices(asked: Asked, number: int, prompt: PromptAsked, completion: Completion) -> Iterator[dict[str, Any]]:
    known = completion.prompt_logprobs or ()
    for choice in completion.choices:
        value = {
            "index": number * asked.n + choice.index,
            "text": prompt.text + choice.text,
            "logprobs": _choice_logprobs(asked, prompt, known, choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if asked.body.prompt_logprobs is not None:
            value["prompt_logprobs"] = vllm_prompt_logprobs(asked.lists(), fewer(known, asked.body.prompt_logprobs))
        if asked.body.return_token_ids:
            value["token_ids"] = choice.token_ids
            value["prompt_token_ids"] = completion.prompt_token_ids
        yield value


def _choice_logprobs(
    asked: Asked, prompt: PromptAsked, known: Sequence[TokenLogprob | None], choice: Choice
) -> dict[str, Any] | None:
    if asked.logprobs is None:
        return None
    assert choice.logprobs is not None
    lists = asked.lists()
    first = prompt.lists(lists, fewer(known, asked.logprobs)) if asked.scores_prompts else {}
    lists.begin(len(prompt.text), skip_special=True)
    rest = lists.lists(Described(token.token_id, token) for token in choice.logprobs)
    return {name: [*first.get(name, ()), *values] for name, values in rest.items()}
