"""What requests may hold: OpenAI's names, vLLM's beside them.

A parameter of sampling is checked in one place for Python, the command line and the server: in SamplingParams and
BeamParams. Here it only has its description, for /docs and /openapi.json. Names that are not listed are refused, not
passed over in silence; null stands for the default.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gptwo.sampling import BeamParams, SamplingParams
from gptwo.sampling.params import LARGEST_N, LONGEST_DRAFT

HELP = BeamParams.field_help() | SamplingParams.field_help()
SAMPLING = frozenset(SamplingParams.field_help())
BEAMS = frozenset(BeamParams.field_help())

_TOKEN_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_PROMPT: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {**_TOKEN_IDS, "minItems": 1},
        {"type": "array", "items": _TOKEN_IDS, "minItems": 1},
    ]
}

_STRUCTURES: dict[str, Any] = {
    "json_schema": {"description": "A JSON schema, as an object or as JSON; `json` is the same."},
    "regex": {"type": "string"},
    "choice": {"type": "array", "items": {"type": "string"}},
    "grammar": {"type": "string", "description": "In Lark's syntax, or in llama.cpp's."},
    "json_object": {"type": "boolean"},
}


def _parameter(name: str, kind: str | None = None, **schema: Any) -> Any:
    """A field that SamplingParams or BeamParams checks. kind: its JSON type, beside null."""
    default = getattr(SamplingParams if name in SAMPLING else BeamParams, name)
    described: dict[str, Any] = {"type": [kind, "null"]} if kind else {}
    shown = list(default) if isinstance(default, tuple) else default
    described |= {} if shown is None else {"default": shown}
    return Field(None, description=HELP[name], json_schema_extra={**described, **schema})


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class StreamOptions(_Body):
    """What a stream says beside the text."""

    include_usage: bool | None = Field(None, description="A last event with `usage` and no choices.")
    continuous_usage_stats: bool | None = Field(None, description="`usage` so far in every event.")


class ResponseFormat(_Body):
    """OpenAI's way to ask for JSON; see `structured_outputs`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class CompletionRequest(_Body):
    """A request to continue prompts: OpenAI's `/v1/completions`, with vLLM's additions."""

    model: str | None = Field(None, description="The model's name as `/v1/models` has it; may be left out.")
    prompt: Any = Field(
        description="Text, token ids, or a list of either. An empty text begins with the end-of-text token.",
        json_schema_extra=_PROMPT,
    )
    max_tokens: Any = _parameter("max_tokens", "integer", minimum=0)
    temperature: Any = _parameter("temperature", "number", minimum=0)
    top_p: Any = _parameter("top_p", "number", minimum=0, maximum=1)
    n: Any = _parameter("n", "integer", minimum=1, maximum=LARGEST_N)
    best_of: Any = _parameter("best_of", "integer", minimum=1, maximum=LARGEST_N)
    logprobs: Any = _parameter("logprobs", "integer", minimum=0)
    echo: bool | None = Field(None, description="Give the prompt back too, with `logprobs` its tokens' as well.")
    stop: Any = _parameter("stop", anyOf=[{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}])
    suffix: Any = Field(None, description="Not supported: GPT-2 cannot fill in before a given end.")
    seed: Any = _parameter("seed", "integer")
    user: str | None = Field(None, description="Accepted, and without effect.")
    frequency_penalty: Any = _parameter("frequency_penalty", "number", minimum=-2, maximum=2)
    presence_penalty: Any = _parameter("presence_penalty", "number", minimum=-2, maximum=2)
    logit_bias: Any = _parameter(
        "logit_bias", "object", additionalProperties={"type": "number", "minimum": -100, "maximum": 100}
    )
    stream: bool | None = Field(None, description="Send the text as server-sent events while it is made.")
    stream_options: StreamOptions | None = Field(None, description="With `stream` only.")

    # vLLM's.
    top_k: Any = _parameter("top_k", "integer", minimum=-1)
    min_p: Any = _parameter("min_p", "number", minimum=0, maximum=1)
    repetition_penalty: Any = _parameter("repetition_penalty", "number", minimum=0.001, maximum=1000)
    stop_token_ids: Any = _parameter("stop_token_ids", "array", items=_TOKEN_IDS["items"])
    include_stop_str_in_output: Any = _parameter("include_stop_str_in_output", "boolean")
    ignore_eos: Any = _parameter("ignore_eos", "boolean")
    min_tokens: Any = _parameter("min_tokens", "integer", minimum=0)
    allowed_token_ids: Any = _parameter("allowed_token_ids", "array", items=_TOKEN_IDS["items"])
    bad_words: Any = _parameter("bad_words", "array", items={"anyOf": [{"type": "string"}, _TOKEN_IDS]})
    prompt_logprobs: Any = _parameter("prompt_logprobs", "integer", minimum=0)
    structured_outputs: Any = _parameter("structured_outputs", "object", properties=_STRUCTURES)
    truncate_prompt_tokens: int | None = Field(
        None,
        ge=-1,
        description="Keep this many tokens at the prompt's end; -1 keeps as many as the model has room for.",
    )
    return_token_ids: bool | None = Field(None, description="Give token ids too, of the prompt and of each choice.")
    return_tokens_as_token_ids: bool | None = Field(None, description="In `logprobs`, name tokens as `token_id:ID`.")
    response_format: ResponseFormat | None = Field(None, description="OpenAI's way to ask for JSON.")
    use_beam_search: bool | None = Field(
        None, description="Search with `best_of` (or `n`) beams for the `n` likeliest texts instead of sampling."
    )
    length_penalty: Any = _parameter("length_penalty", "number", minimum=-10, maximum=10)
    early_stopping: Any = _parameter("early_stopping", enum=[False, True, "never", None])
    skip_special_tokens: Literal[True] | None = Field(None, description="Special tokens are never part of a text.")
    spaces_between_special_tokens: bool | None = Field(None, description="Accepted, and without effect.")
    add_special_tokens: bool | None = Field(None, description="Accepted; GPT-2's prompts have none to add.")

    # Ours.
    typical_p: Any = _parameter("typical_p", "number", exclusiveMinimum=0, maximum=1)
    no_repeat_ngram_size: Any = _parameter("no_repeat_ngram_size", "integer", minimum=0)
    speculate: Any = _parameter("speculate", "integer", minimum=0, maximum=LONGEST_DRAFT)
    overflow: Any = _parameter("overflow", enum=["error", "slide", None])


class ScoreRequest(_Body):
    """A request for the log-probabilities of given texts."""

    model: str | None = Field(None, description="The model's name as `/v1/models` has it; may be left out.")
    input: Any = Field(
        description="Text, token ids, or a list of either. A long one is read in windows that overlap by half.",
        json_schema_extra=_PROMPT,
    )
    logprobs: int | None = Field(None, ge=0, description="Give so many of the likeliest tokens in each place too.")
    return_tokens_as_token_ids: bool | None = Field(None, description="Name tokens as `token_id:ID`.")


class InspectRequest(_Body):
    """A request to look at what a text does inside the model."""

    model: str | None = Field(None, description="The model's name as `/v1/models` has it; may be left out.")
    prompt: Any = Field(
        description="Text or token ids. An empty text is the end-of-text token.",
        json_schema_extra={"anyOf": [{"type": "string"}, {**_TOKEN_IDS, "minItems": 1}]},
    )
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="Look at so many tokens at the prompt's end; -1 is as many as the server looks at."
    )


class TokenizeRequest(_Body):
    """A request for the tokens of a text."""

    model: str | None = Field(None, description="The model's name as `/v1/models` has it; may be left out.")
    prompt: str = Field(description="The text.")
    add_special_tokens: bool | None = Field(None, description="Accepted; GPT-2's prompts have none to add.")
    allow_special: bool | None = Field(
        None, description="Read `<|endoftext|>` as the special token, not as text; alone it always is."
    )
    return_token_strs: bool | None = Field(None, description="Give each token's text too; true unless said otherwise.")


class DetokenizeRequest(_Body):
    """A request for the text of tokens."""

    model: str | None = Field(None, description="The model's name as `/v1/models` has it; may be left out.")
    tokens: Any = Field(description="Token ids.", json_schema_extra=dict(_TOKEN_IDS))
