"""A request for completions that has been read and checked: what there is to answer."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptwo.engine import Request, TokenLogprob
from gptwo.errors import InvalidRequestError
from gptwo.loading import OpenModel
from gptwo.sampling import SamplingParams
from gptwo.server.logprobs import LogprobLists, prompt_tokens
from gptwo.server.parameters import Params, Prompt, encode_prompt, params_of, prompts_of, tokens_of
from gptwo.server.runner import Runner
from gptwo.server.schemas import CompletionRequest
from gptwo.server.service import Service
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

    def lists(self, lists: LogprobLists, known: Sequence[TokenLogprob | None]) -> dict[str, Any]:
        """OpenAI's lists for the prompt, from what is known of its tokens."""
        lists.begin(0, skip_special=self.implied)
        return lists.lists(prompt_tokens(self.request.prompt_ids, known))


def fewer(known: Sequence[TokenLogprob | None], most: int) -> list[TokenLogprob | None]:
    """The same with no more alternatives than that."""
    return [token and dataclasses.replace(token, top=token.top[:most]) for token in known]


def ask(service: Service, runner: Runner, body: CompletionRequest) -> Asked:
    """Check all of a request; on a thread of its own, since texts may be long."""
    name = service.check_name(body.model)
    model, settings = runner.model, service.settings
    params = params_of(body, settings, model.config.n_positions)
    prompts = prompts_of("prompt", body.prompt, settings.max_prompts)
    asked: list[PromptAsked] = []
    left = settings.max_request_tokens
    for prompt in prompts:
        like = asked[0].request if asked else None
        asked.append(_ask_prompt(runner, prompt, body, params, settings.max_tokens, like))
        left -= tokens_of(asked[-1].request.prompt_ids, params, model.config.n_positions)
        if left < 0:
            raise InvalidRequestError(
                f"the request's prompts and texts, with all alternatives, have more than {settings.max_request_tokens} "
                "tokens, which is this server's limit; --max-request-tokens sets that",
                "max_tokens",
            )
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": name,
        "system_fingerprint": FINGERPRINT,
    }
    return Asked(body, params, model, asked, head)


def _ask_prompt(
    runner: Runner, prompt: Prompt, body: CompletionRequest, params: Params, most: int | None, like: Request | None
) -> PromptAsked:
    """most: tokens to generate where the request leaves that open. like: the first prompt's request."""
    model = runner.model
    ids = encode_prompt(model, prompt, body, params)
    room = model.config.n_positions - max(1, len(ids))
    if params.max_tokens is None and most is not None and most < room:
        params = dataclasses.replace(params, max_tokens=most)
    scoring = None
    if body.echo and isinstance(params, SamplingParams) and params.logprobs is not None:
        if body.stream:
            scores = SamplingParams(max_tokens=0, prompt_logprobs=params.logprobs)
            scoring = runner.prepare(ids, scores)
        else:
            most = max(params.logprobs, params.prompt_logprobs or 0)
            params = dataclasses.replace(params, prompt_logprobs=most)
    request = runner.prepare(ids, params, like=like)
    text = ""
    if body.echo:
        whole = isinstance(prompt, str) and body.truncate_prompt_tokens is None
        text = prompt if whole else "" if model.tokenizer is None else model.tokenizer.decode(ids)  # type: ignore[assignment]
    return PromptAsked(text, not ids, request, scoring)
