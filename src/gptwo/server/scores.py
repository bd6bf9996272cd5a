"""`POST /v1/score`: how likely the model finds given texts."""

from __future__ import annotations

import itertools
import math
import uuid
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptwo.engine import Request, TokenLogprob
from gptwo.engine.request import check_token_ids
from gptwo.errors import InvalidRequestError
from gptwo.sampling import SamplingParams
from gptwo.scoring import make_score, windows
from gptwo.server.bodies import parse, read_body
from gptwo.server.json_answers import json_list, with_list, with_raw
from gptwo.server.log import record_of
from gptwo.server.logprobs import LogprobLists, prompt_tokens
from gptwo.server.parameters import prompts_of
from gptwo.server.runner import Runner
from gptwo.server.schemas import ScoreRequest
from gptwo.server.service import Service, submitted
from gptwo.server.sse import unless_gone

# Parts of texts that one request has in the queue at a time: enough for a full step, few enough to leave room.
AT_ONCE = 16


class Part(NamedTuple):
    """A window of a text; of its tokens the last `fresh` are scored."""

    request: Request
    fresh: int


@dataclass(frozen=True)
class Asked:
    """A request that can be answered."""

    body: ScoreRequest
    name: str
    texts: list[tuple[int, ...]]
    """As token ids."""
    parts: list[list[Part]]
    """Of each text."""


async def create_score(service: Service, http: HttpRequest) -> Response:
    """Answer a request for scores."""
    settings, fields = service.settings, record_of(http.scope)
    with service.counting_refusals():
        runner = service.runner
        data = await read_body(http, most=settings.max_body, timeout=settings.body_timeout)
        asked = await service.prepare(_ask, service, runner, data)
    fields |= {"texts": len(asked.texts), "prompt_tokens": sum(map(len, asked.texts))}
    if settings.log_prompts:
        fields["input"] = asked.body.input
    return Response(await unless_gone(http.receive, _answer(asked, service, runner)), media_type="application/json")


def _ask(service: Service, runner: Runner, data: bytes) -> Asked:
    body = parse(ScoreRequest, data)
    name, settings, model = service.check_name(body.model), service.settings, runner.model
    count = body.logprobs or 0
    if count > settings.max_logprobs:
        raise InvalidRequestError(f"logprobs is {count}, this server takes at most {settings.max_logprobs}", "logprobs")
    params = SamplingParams(max_tokens=0, prompt_logprobs=count)
    texts, parts, left = [], [], settings.max_score_tokens
    for text in prompts_of("input", body.input, settings.max_prompts):
        ids = check_token_ids(model.encode(text, endless=True), model.config.vocab_size)
        left -= len(ids)
        if left < 0:
            raise InvalidRequestError(
                f"the texts have more than {settings.max_score_tokens} tokens together, this server's limit",
                "input",
            )
        texts.append(ids)
        if not ids:
            raise InvalidRequestError("there is nothing to score: a text has no tokens", "input")
        found = windows(len(ids), model.config.n_positions)
        parts.append([Part(runner.prepare(ids[start:end], params), fresh) for start, end, fresh in found])
    return Asked(body, name, texts, parts)


async def _answer(asked: Asked, service: Service, runner: Runner) -> bytes:
    parts = itertools.chain.from_iterable(asked.parts)
    known: list[list[TokenLogprob | None]] = []
    while group := list(itertools.islice(parts, AT_ONCE)):
        with submitted(runner, [part.request for part in group]) as tickets:
            for part, ticket in zip(group, tickets, strict=True):
                scored = (await ticket.completion()).prompt_logprobs
                assert scored is not None
                known.append(list(scored[len(scored) - part.fresh :]))
    return await service.in_thread(_written, asked, runner, known)  # they may be many


def _written(asked: Asked, runner: Runner, known: list[list[TokenLogprob | None]]) -> bytes:
    """The answer's JSON, text by text, since other threads wait while one piece is written."""
    pieces = iter(known)
    data: list[bytes] = []
    for index, (ids, own) in enumerate(zip(asked.texts, asked.parts, strict=True)):
        logprobs: list[TokenLogprob | None] = [None, *itertools.chain.from_iterable(itertools.islice(pieces, len(own)))]
        data.append(_score(asked, runner, index, ids, logprobs))
    count = sum(map(len, asked.texts))
    usage = {"prompt_tokens": count, "completion_tokens": 0, "total_tokens": count}
    head = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "model": asked.name}
    return with_list(head, "data", data, usage=usage)


def _score(
    asked: Asked, runner: Runner, index: int, ids: tuple[int, ...], logprobs: list[TokenLogprob | None]
) -> bytes:
    tokenizer = runner.model.tokenizer
    score = make_score(ids, [None if token is None else token.logprob for token in logprobs], tokenizer)
    writer = LogprobLists(tokenizer, as_ids=bool(asked.body.return_tokens_as_token_ids))
    writer.begin(0, skip_special=False)
    lists = writer.lists(prompt_tokens(ids, logprobs))
    head = {
        "index": index,
        "object": "score",
        "total": score.total,
        "perplexity": score.perplexity if math.isfinite(score.perplexity) else None,
        "bits_per_byte": score.bits_per_byte,
    }
    shown = {"tokens": lists["tokens"], "token_ids": ids} | {
        name: lists[name] for name in ("token_logprobs", "text_offset", "top_logprobs")
    }
    if asked.body.logprobs is None:
        del shown["top_logprobs"]
    return with_raw(head, {name: json_list(values) for name, values in shown.items()})
