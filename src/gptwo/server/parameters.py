"""From a request's body to what the engine takes: its parameters, and its prompts as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptwo.errors import InvalidRequestError
from gptwo.loading import OpenModel
from gptwo.options import is_integer, shown
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.server.schemas import BEAMS, SAMPLING, CompletionRequest
from gptwo.server.settings import ServerSettings

Params = SamplingParams | BeamParams
Prompt = str | list[int]

# What old clients send with beam search, as vLLM once wanted it, and what says nothing there.
_HARMLESS_WITH_BEAMS = {"temperature": (0, 1), "top_p": (1,), "top_k": (0, -1), "n": None, "best_of": None}


def params_of(body: CompletionRequest, settings: ServerSettings, positions: int) -> Params:
    """The parameters of a request, checked and within this server's limits.

    positions: the model's. Raises InvalidRequestError, whose `param` names the parameter.
    """
    given = {
        name: getattr(body, name)
        for name in type(body).model_fields
        # A null is the default, but for max_tokens, where it means as many as there is room for.
        if name in body.model_fields_set and (name == "max_tokens" or getattr(body, name) is not None)
    }
    if body.suffix is not None:
        raise InvalidRequestError("suffix is not supported: GPT-2 cannot fill in before a given end", "suffix")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options is for streams: set stream to true", "stream_options")
    if body.response_format is not None:
        given |= _structured(body, given)
    params: Params
    if body.use_beam_search:
        params = BeamParams.from_dict(_beam_values(given))
    else:
        for name in ("length_penalty", "early_stopping"):
            if name in given:
                raise InvalidRequestError(f"{name} is for beam search: set use_beam_search to true", name)
        params = SamplingParams.from_dict({name: value for name, value in given.items() if name in SAMPLING})
    _check_limits(body, params, settings, positions)
    return params


def prompts_of(name: str, value: object, most: int) -> list[Prompt]:
    """The prompts of a request, of any of OpenAI's four forms: text, texts, token ids, lists of token ids.

    most: this server's limit. Raises InvalidRequestError. Whether the ids are the model's is checked later.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise InvalidRequestError(
            f"{name} is {shown(value)}, expected text, a list of texts, token ids, or a list of lists of them", name
        )
    if not value:
        raise InvalidRequestError(f"{name} is an empty list, expected at least one text or token id", name)
    if all(map(is_integer, value)):
        return [value]
    kind = type(value[0])
    for item in value:
        if type(item) is not kind or not isinstance(item, (str, list)):
            raise InvalidRequestError(
                f"{name} holds {shown(item)}, expected texts only, token ids only, or lists of token ids only", name
            )
        wrong = next((token for token in item if not is_integer(token)), None) if isinstance(item, list) else None
        if wrong is not None:
            raise InvalidRequestError(f"{name} holds a list with {shown(wrong)}, expected token ids", name)
    if len(value) > most:
        raise InvalidRequestError(f"{name} has {len(value)} entries, this server takes at most {most}", name)
    return value


def encode_prompt(model: OpenModel, prompt: Prompt, body: CompletionRequest, params: Params) -> Sequence[int]:
    """The token ids of a prompt, truncated if that was asked for. Raises GptwoError as `OpenModel.encode`."""
    keep = body.truncate_prompt_tokens
    slides = isinstance(params, SamplingParams) and params.overflow == "slide"
    ids = model.encode(prompt, endless=slides or keep is not None)
    if keep is None:
        return ids
    positions = model.config.n_positions
    if keep > positions:
        raise InvalidRequestError(
            f"truncate_prompt_tokens is {keep}, expected at most {positions}, the model's positions",
            "truncate_prompt_tokens",
        )
    if keep == -1:
        keep = max(1, positions - (params.max_tokens or 0))
    return ids[max(0, len(ids) - keep) :]


def tokens_of(prompt_ids: Sequence[int], params: Params, positions: int) -> int:
    """How much a prompt asks for, at most: its tokens and those of its texts, with every alternative to them.

    Example: 4 tokens of prompt, max_tokens 6, best_of 2 and logprobs 1 are 2 · (4 + 6) · (1 + 1) = 40.
    """
    new = positions - len(prompt_ids) if params.max_tokens is None else params.max_tokens
    if isinstance(params, BeamParams):
        return params.num_beams * (len(prompt_ids) + new)
    width = params.best_of or params.n
    return width * (len(prompt_ids) + new) * (1 + max(params.logprobs or 0, params.prompt_logprobs or 0))


def _structured(body: CompletionRequest, given: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's response_format as vLLM's structured_outputs."""
    wanted = body.response_format
    assert wanted is not None
    if wanted.type == "text":
        return {}
    if "structured_outputs" in given:
        raise InvalidRequestError("response_format and structured_outputs say the same; give one", "response_format")
    if wanted.type == "json_object":
        return {"structured_outputs": {"json_object": True}}
    schema = (wanted.json_schema or {}).get("schema")
    if schema is None:
        raise InvalidRequestError("response_format.json_schema.schema is missing", "response_format")
    return {"structured_outputs": {"json_schema": schema}}


def _beam_values(given: dict[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name in SAMPLING and name not in BEAMS:
            harmless = _HARMLESS_WITH_BEAMS.get(name, ())
            if harmless is not None and value not in harmless:
                raise InvalidRequestError(f"{name} is for sampling, and use_beam_search searches instead", name)
    values = {name: value for name, value in given.items() if name in BEAMS}
    returned = given.get("n", 1)
    values["num_return_sequences"] = returned
    values["num_beams"] = given.get("best_of", returned)
    return values


def _check_limits(body: CompletionRequest, params: Params, settings: ServerSettings, positions: int) -> None:
    sampling = isinstance(params, SamplingParams)
    width = (params.best_of or params.n) if isinstance(params, SamplingParams) else params.num_beams
    _at_most("n", params.n if isinstance(params, SamplingParams) else params.num_return_sequences, settings.max_n)
    _at_most("best_of", width, max(settings.max_best_of, settings.max_n if body.best_of is None else 0))
    slides = isinstance(params, SamplingParams) and params.overflow == "slide"
    if settings.max_tokens is not None or slides:
        most = positions if settings.max_tokens is None else settings.max_tokens
        _at_most("max_tokens", params.max_tokens, most)
    if isinstance(params, SamplingParams):
        if len(params.stop_strings) > settings.max_stop:
            raise InvalidRequestError(
                f"stop has {len(params.stop_strings)} strings, this server takes at most {settings.max_stop}", "stop"
            )
        _at_most("logprobs", params.logprobs, settings.max_logprobs)
        _at_most("prompt_logprobs", params.prompt_logprobs, settings.max_logprobs)
    if body.stream and sampling and body.best_of is not None and width > (body.n or 1):
        raise InvalidRequestError("best_of cannot be streamed: the best is known at the end only", "best_of")
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequestError("prompt_logprobs is not for streams; echo with logprobs is", "prompt_logprobs")


def _at_most(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise InvalidRequestError(f"{name} is {value}, this server takes at most {most}; {_flag(name)} sets that", name)


def _flag(name: str) -> str:
    """The option of `gptwo serve` that sets the limit of a parameter."""
    limit = name if name.startswith("max_") else f"max_{name.removeprefix('prompt_')}"
    return "--" + limit.replace("_", "-")
