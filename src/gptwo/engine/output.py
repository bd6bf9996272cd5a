"""What an engine gives back: pieces as they are made, a completion when a request is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from gptwo.decoder.protocol import Floats
from gptwo.errors import GptwoError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class TopToken:
    """A token that could have stood in a place."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """A token and what the model thought of it, before temperature, penalties and masks. Logarithms are natural."""

    token_id: int
    text: str
    logprob: float
    top: tuple[TopToken, ...] = ()
    """The likeliest tokens in its place, likeliest first."""


@dataclass(frozen=True)
class Piece:
    """What one step added to one text of a request."""

    request_id: int
    index: int
    """Which of the request's n texts."""
    text: str
    """May be empty: part of a character, or the possible beginning of a stop string, is held back."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    """Set in the last piece of a text."""
    stop_reason: str | int | None = None
    """The stop string or stop token that ended the text."""


@dataclass(frozen=True)
class Choice:
    """One of the texts of a completion."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    cumulative_logprob: float | None = None
    """Sum of the tokens' log-probabilities, in nats, where those were asked for."""
    score: float | None = None
    """A beam's score; None when sampling."""


@dataclass(frozen=True)
class Completion:
    """A request's answer. `text`, `token_ids`, `finish_reason` and so on are those of the first choice.

    Equal answers are equal, whichever request they belong to.
    """

    request_id: int = field(compare=False)
    prompt_token_ids: tuple[int, ...]
    choices: tuple[Choice, ...]
    seed: int | None = None
    """What the random numbers were drawn from; the same seed gives the same text. None for beam search."""
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """One for each prompt token; None for the first, which nothing precedes."""
    prompt_logits: Floats | None = field(default=None, repr=False, compare=False)
    """float32 (rows, V), for requests that keep them."""

    @property
    def text(self) -> str:
        """The first choice's text, without the prompt."""
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The first choice's token ids, a stop token included."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """`stop` (end of text, stop token or stop string) or `length`."""
        return self.choices[0].finish_reason

    @property
    def stop_reason(self) -> str | int | None:
        """The stop string or stop token that ended the first choice; None for the end of text."""
        return self.choices[0].stop_reason

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """The first choice's log-probabilities, if they were asked for."""
        return self.choices[0].logprobs


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is, token by token, given all that is before each. Logarithms are natural."""

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    """Whether each token is the likeliest in its place; of equally likely ones that with the lowest id is."""

    @property
    def total(self) -> float:
        """The log-probability of the continuation, in nats."""
        return math.fsum(self.logprobs)

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding makes this continuation."""
        return all(self.greedy)


@dataclass(frozen=True)
class Scored:
    """The answer to a request that asked how likely continuations are: one for each, in their order."""

    request_id: int
    likelihoods: tuple[Likelihood, ...]


@dataclass(frozen=True)
class Failure:
    """A request that ended in an error; the others go on."""

    request_id: int
    error: GptwoError


Event = Piece | Completion | Scored | Failure
