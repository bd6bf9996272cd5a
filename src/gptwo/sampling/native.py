"""From a model's logits to a token, in the core: what `sampler` defines, bit by bit, in microseconds.

V is the vocabulary. Rows of logits are float32 (V,) and are not changed; other threads run while the core works on one.
NumericalError is raised for NaN, +inf, or no finite logit: it comes from the model, not from a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from gptwo import _native
from gptwo.sampling.params import SamplingParams
from gptwo.sampling.processors import Logits, TokenMask
from gptwo.sampling.sampler import Probabilities

_WORD = 2**64 - 1


class Chosen(NamedTuple):
    """A token, and what the model thought of it before temperature, penalties and masks. Logarithms are natural."""

    token_id: int
    logprob: float | None
    """None where no log-probability was asked for."""
    top: list[tuple[int, float]]
    """The likeliest tokens and their log-probabilities, likeliest first, equal ones by id."""


class Sampler:
    """Chooses the tokens of the texts that answer one prompt. It keeps no state from one token to the next."""

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Sequence[int],
        *,
        seed: int,
        bad_words: Sequence[Sequence[int]] = (),
        stop_ids: Collection[int] = (),
        vocab_size: int | None = None,
        logprobs: int | None = None,
    ) -> None:
        """See `sampler.process_logits` for the arguments; params.seed and params.logprobs make no difference here.

        seed: 64 bits, as `counter_random.uniform` takes it. logprobs: how many of the likeliest tokens each choice
        tells of; None tells of none, nor of the token chosen.
        """
        self._core = _native.Sampler(
            prompt=list(prompt_ids),
            seed=seed & _WORD,
            vocab_size=vocab_size,
            logit_bias=list((params.logit_bias or {}).items()),
            repetition_penalty=params.repetition_penalty,
            frequency_penalty=params.frequency_penalty,
            presence_penalty=params.presence_penalty,
            no_repeat_ngram_size=params.no_repeat_ngram_size,
            bad_words=[list(word) for word in bad_words],
            min_tokens=params.min_tokens,
            stop_ids=list(stop_ids),
            allowed_token_ids=None if params.allowed_token_ids is None else list(params.allowed_token_ids),
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            typical_p=params.typical_p,
            logprobs=logprobs,
        )

    def choose(self, logits: Logits, index: int, output_ids: Sequence[int], mask: TokenMask | None = None) -> Chosen:
        """The token that follows prompt and `output_ids` in text number `index` of those that share the seed.

        It is drawn with the random number of (seed, index, position), the position counting from the prompt's
        beginning: a text that is continued later with the same seed goes on as it would have gone on at once.
        mask: see `processors.apply_token_mask`.

        Raises InvalidRequestError if no token is left to choose or a token id is not below V, NumericalError.
        """
        return Chosen(*self._core.choose(logits, index, output_ids, mask))

    def distribution(self, logits: Logits, output_ids: Sequence[int], mask: TokenMask | None = None) -> Probabilities:
        """The probabilities that this token is drawn from: float64 (V,), as `sampler.distribution` has them."""
        masses = np.empty(len(logits), dtype=np.int64)
        self._core.masses(logits, output_ids, masses, mask)
        return masses / float(masses.sum())


def token_logprobs(logits: Logits, token_id: int, count: int) -> Chosen:
    """What the model thinks of a token and of the `count` likeliest in its place. Raises as `Sampler.choose` does."""
    return Chosen(*_native.token_logprobs(logits, token_id, count))


def log_softmax(logits: Logits) -> Logits:
    """Natural logarithms of the probabilities: float32 (V,) -> float32 (V,). Raises NumericalError."""
    logprobs = np.empty_like(logits)
    _native.log_softmax(logits, logprobs)
    return logprobs
