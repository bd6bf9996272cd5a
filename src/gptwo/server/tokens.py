"""`POST /tokenize` and `POST /detokenize`, as vLLM has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gptwo.engine.request import check_token_ids
from gptwo.errors import InvalidRequestError
from gptwo.options import shown
from gptwo.server.bodies import parse, read_body
from gptwo.server.json_answers import json_bytes, json_list, with_raw
from gptwo.server.logprobs import token_name
from gptwo.server.runner import Runner
from gptwo.server.schemas import DetokenizeRequest, TokenizeRequest
from gptwo.server.service import Service
from gptwo.tokenizer import END_OF_TEXT, Tokenizer

Work = Callable[[Service, Runner, bytes], bytes]


async def tokenize(service: Service, http: HttpRequest) -> Response:
    """The tokens of a text."""
    return Response(await _answer(service, http, _tokenize), media_type="application/json")


async def detokenize(service: Service, http: HttpRequest) -> Response:
    """The text of tokens."""
    return Response(await _answer(service, http, _detokenize), media_type="application/json")


def tokenizer_info(runner: Runner) -> dict[str, Any]:
    """What is to be known of the tokenizer, as vLLM's `GET /tokenizer_info` has it."""
    tokenizer = runner.model.tokenizer
    end = None
    if tokenizer is not None and tokenizer.end_of_text_id is not None:
        end = tokenizer.token_text(tokenizer.end_of_text_id)
    return {
        "tokenizer_class": "gptwo.Tokenizer",
        "vocab_size": None if tokenizer is None else tokenizer.vocab_size,
        "model_max_length": runner.model.config.n_positions,
        "bos_token": end,
        "eos_token": end,
        "eos_token_id": None if tokenizer is None else tokenizer.end_of_text_id,
        "pad_token": end,
        "chat_template": None,
    }


async def _answer(service: Service, http: HttpRequest, work: Work) -> bytes:
    runner = service.runner
    data = await read_body(http, most=service.settings.max_body, timeout=service.settings.body_timeout)
    return await service.prepare(work, service, runner, data)


def _tokenize(service: Service, runner: Runner, data: bytes) -> bytes:
    body = parse(TokenizeRequest, data)
    service.check_name(body.model)
    tokenizer = _tokenizer(runner)
    # A special token's name in a text is text. Alone it is how lm-eval asks for the token.
    alone = body.prompt == END_OF_TEXT
    ids = tokenizer.encode(body.prompt, allow_special=alone or bool(body.allow_special))
    names = None if body.return_token_strs is False else [token_name(tokenizer, token) for token in ids]
    head = {"count": len(ids), "max_model_len": runner.model.config.n_positions}
    return with_raw(head, {"tokens": json_list(ids), "token_strs": b"null" if names is None else json_list(names)})


def _detokenize(service: Service, runner: Runner, data: bytes) -> bytes:
    body = parse(DetokenizeRequest, data)
    service.check_name(body.model)
    if not isinstance(body.tokens, list):
        raise InvalidRequestError(f"tokens is {shown(body.tokens)}, expected a list of token ids", "tokens")
    tokenizer = _tokenizer(runner)
    try:
        ids = check_token_ids(body.tokens, tokenizer.vocab_size)
    except InvalidRequestError as error:
        raise InvalidRequestError(str(error), "tokens") from None
    return json_bytes({"prompt": tokenizer.decode(ids)})


def _tokenizer(runner: Runner) -> Tokenizer:
    if runner.model.tokenizer is None:
        raise InvalidRequestError(f"{runner.model.name} has no tokenizer")
    return runner.model.tokenizer
