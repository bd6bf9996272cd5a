"""What a person may ask of generation: sampling or beam search, every value checked.

Names and ranges are those of OpenAI's completions API and of vLLM; where the two differ, vLLM's are taken. An object
of these classes is right by construction: whoever holds one need not check it again, except against a vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from gptwo import options
from gptwo.errors import InvalidRequestError
from gptwo.options import boolean, choice, integer, number, option, refuse_unknown_names, shown
from gptwo.sampling.structured import StructuredOutputs, structured
from gptwo.sampling.validation import texts, token_biases, token_ids, words

LARGEST_N = 128
LONGEST_DRAFT = 64
MOST_STOP_STRINGS = 1024
MOST_BAD_WORDS = 10_000


@refuse_unknown_names
@dataclass(frozen=True, kw_only=True)
class LogitsOptions:
    """What sampling and beam search share: how long to go on, and what changes the logits before a token is chosen.

    Raises InvalidRequestError, whose `param` names the field, for an unknown name, a value of the wrong type or out of
    range, and for values that contradict each other. Lists become tuples, and None in place of a list is an empty one.
    """

    max_tokens: int | None = option(
        16,
        integer(0, optional=True),
        "Most tokens to generate; none goes on until the context is full, 0 generates nothing.",
    )
    min_tokens: int = option(0, integer(0), "Tokens to generate before the end of text or a stop token may be chosen.")
    repetition_penalty: float = option(
        1.0,
        number(0.001, 1000.0),
        "Above 1 makes tokens that are in the prompt or the output less likely, below 1 likelier; 1 is off.",
    )
    frequency_penalty: float = option(
        0.0, number(-2.0, 2.0), "Taken off a token's logit for each time it is in the output so far; 0 is off."
    )
    presence_penalty: float = option(
        0.0, number(-2.0, 2.0), "Taken off a token's logit once if it is in the output so far; 0 is off."
    )
    no_repeat_ngram_size: int = option(
        0, integer(0), "No run of this many tokens occurs twice in prompt and output; 0 is off."
    )
    logit_bias: Mapping[int, float] | None = option(
        None,
        token_biases,
        "Added to the logits of these token ids, -100 to 100 each.",
        hashed=False,  # a mapping has no hash; objects that are equal still hash alike
    )
    allowed_token_ids: Sequence[int] | None = option(
        None, token_ids(optional=True), "Only these token ids may be chosen; none allows all."
    )
    bad_words: Sequence[str | Sequence[int]] = option(
        (), words(MOST_BAD_WORDS), "Words, or lists of token ids, that are never generated."
    )
    stop_token_ids: Sequence[int] = option((), token_ids(), "Token ids that end the text, beside the end of text.")
    ignore_eos: bool = option(False, boolean, "Go on after the end of text token.")

    def __post_init__(self) -> None:
        options.check_options(self)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(
                f"min_tokens is {self.min_tokens}, expected at most max_tokens, which is {self.max_tokens}",
                param="min_tokens",
            )

    @classmethod
    def field_help(cls) -> dict[str, str]:
        """The names of the parameters, in order, and one line about each."""
        return options.field_help(cls)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what JSON or a command line gave. Raises InvalidRequestError as the constructor does."""
        if not isinstance(values, Mapping):
            raise InvalidRequestError(f"parameters are {shown(values)}, expected an object of names and values")
        for name in values:
            if not isinstance(name, str):
                raise InvalidRequestError(f"parameters have the name {shown(name)}, expected text")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the default, in plain values that JSON can hold; from_dict reads it back."""
        defaults = type(self)()
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in values.items() if value != getattr(defaults, name)}

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise InvalidRequestError for a token id, or a number of logprobs, that this vocabulary does not have."""
        named = {
            "logit_bias": self.logit_bias or (),
            "allowed_token_ids": self.allowed_token_ids or (),
            "stop_token_ids": self.stop_token_ids,
            "bad_words": [token for word in self.bad_words if not isinstance(word, str) for token in word],
        }
        for name, ids in named.items():
            for token_id in ids:
                if token_id >= vocab_size:
                    raise InvalidRequestError(
                        f"{name} has token {token_id}, expected ids below {vocab_size}, the model's vocabulary",
                        param=name,
                    )


@refuse_unknown_names
@dataclass(frozen=True, kw_only=True)
class SamplingParams(LogitsOptions):
    """How to draw tokens one after another; see LogitsOptions for the errors.

    Example: SamplingParams(max_tokens=40, temperature=0.8, top_p=0.95, seed=1)
    """

    n: int = option(1, integer(1, LARGEST_N), "Texts to return for each prompt.")
    best_of: int | None = option(
        None,
        integer(1, LARGEST_N, optional=True),
        "Texts to generate for each prompt, of which the n likeliest are returned; none is n.",
    )
    temperature: float = option(
        1.0, number(0.0), "Below 1 favours likely tokens, above 1 evens them out; 0 always takes the likeliest."
    )
    top_k: int = option(0, integer(-1), "Draw from this many of the likeliest tokens only; 0 or -1 is off.")
    top_p: float = option(
        1.0,
        number(0.0, 1.0),
        "Draw from the fewest likeliest tokens whose probabilities reach this sum; 1 is off, 0 takes the likeliest.",
    )
    min_p: float = option(
        0.0, number(0.0, 1.0), "Leave out tokens less likely than this share of the likeliest one; 0 is off."
    )
    typical_p: float = option(
        1.0,
        number(0.0, 1.0, above_minimum=True),
        "Draw from tokens about as surprising as expected, whose probabilities reach this sum; 1 is off.",
    )
    stop: str | Sequence[str] | None = option(
        None, texts(MOST_STOP_STRINGS), "Strings that end the text where they first occur in it."
    )
    include_stop_str_in_output: bool = option(False, boolean, "Keep the stop string at the end of the text.")
    seed: int | None = option(
        None,
        integer(-(2**63), 2**64 - 1, optional=True),
        "The same seed gives the same text, whatever else is generated at the time; none picks one.",
    )
    logprobs: int | None = option(
        None,
        integer(0, optional=True),
        "Give the log-probability of each token, and of this many of the likeliest in its place; none gives none.",
    )
    prompt_logprobs: int | None = option(
        None, integer(0, optional=True), "The same as logprobs, for the tokens of the prompt."
    )
    overflow: Literal["error", "slide"] = option(
        "error",
        choice("error", "slide"),
        "Past the model's positions: 'error' refuses, 'slide' recomputes over the last window of tokens.",
    )
    speculate: int = option(
        0,
        integer(0, LONGEST_DRAFT),
        "Guess up to this many tokens from the text so far and check them at once: faster, the same text; 0 is off.",
    )
    structured_outputs: StructuredOutputs | Mapping[str, Any] | None = option(  # noqa: RUF009 - it is immutable
        None,
        structured,
        "What the text has to be, with one of json_schema, regex, choice, grammar or json_object; none is anything.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        if self.best_of is not None and self.best_of < self.n:
            raise InvalidRequestError(
                f"best_of is {self.best_of}, expected at least n, which is {self.n}", param="best_of"
            )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as it is after checking: always a tuple."""
        stop = self.stop
        return (stop,) if isinstance(stop, str) else tuple(stop or ())

    def check_vocabulary(self, vocab_size: int) -> None:
        """As LogitsOptions.check_vocabulary; more logprobs than there are tokens are refused too."""
        super().check_vocabulary(vocab_size)
        for name, count in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if count is not None and count > vocab_size:
                raise InvalidRequestError(
                    f"{name} is {count}, expected at most {vocab_size}, the model's vocabulary", param=name
                )


@refuse_unknown_names
@dataclass(frozen=True, kw_only=True)
class BeamParams(LogitsOptions):
    """How to search for likely texts with several beams; see LogitsOptions for the errors.

    The meaning of each is transformers' own. The penalties and biases act on log-probabilities here, on logits when
    sampling. Example: BeamParams(num_beams=4, length_penalty=0.8, max_tokens=30)
    """

    num_beams: int = option(4, integer(1, LARGEST_N), "Texts that are carried along at once; more search wider.")
    length_penalty: float = option(
        1.0,
        number(-10.0, 10.0),
        "A text's score is its log-probability over its length to this power: above 0 favours long texts, below short.",
    )
    early_stopping: bool | Literal["never"] = option(
        False,
        choice(False, True, "never"),
        "True ends once num_beams texts are complete, False when better ones are unlikely, 'never' when impossible.",
    )
    num_return_sequences: int = option(1, integer(1, LARGEST_N), "Texts to return, best first; at most num_beams.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_return_sequences > self.num_beams:
            raise InvalidRequestError(
                f"num_return_sequences is {self.num_return_sequences}, "
                f"expected at most num_beams, which is {self.num_beams}",
                param="num_return_sequences",
            )


def _plain(value: Any) -> Any:
    """Tuples as lists and mappings as dicts with text for keys, as JSON has them."""
    if isinstance(value, StructuredOutputs):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    return value
