"""From a model's logits to a token: the definition, in numpy. What runs is the core, by way of `native.Sampler`.

Three steps, each of which can be asked for alone: process_logits (biases, penalties and masks, which depend on what
was said so far), distribution (temperature and truncation, which don't), and choose (one token, given one random
number).
log_softmax and top_logprobs report on the logits as the model gave them.

The two are equal bit by bit, and tests hold them so. This one is for reading, for testing, and for trying out an option
before it goes into the core.

V is the vocabulary. NaN, or an infinity where it has no meaning, is a NumericalError: it comes from the model, not
from a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from gptwo.errors import InvalidRequestError, NumericalError
from gptwo.sampling import processors
from gptwo.sampling.arithmetic import MASS_BITS, Masses, log, masses
from gptwo.sampling.params import LogitsOptions, SamplingParams
from gptwo.sampling.processors import Logits, TokenMask

Probabilities = npt.NDArray[np.float64]


def process_logits(
    logits: Logits,
    params: LogitsOptions,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    *,
    bad_words: Sequence[Sequence[int]] = (),
    stop_ids: Collection[int] = (),
    vocab_size: int | None = None,
    mask: TokenMask | None = None,
) -> Logits:
    """Apply what `params` says about the choice of tokens; float32 (V,) -> float32 (V,).

    Returns the array it was given, untouched, where nothing is asked for. bad_words: the bad words as token ids.
    stop_ids: tokens that end the text, removed while fewer than min_tokens were produced. vocab_size: ids from there on
    are padding and never chosen. mask: tokens that a grammar allows, see `processors.apply_token_mask`.

    Raises InvalidRequestError if no token is left, NumericalError if the logits hold NaN or +inf, or no finite number.
    """
    processed = apply_options(
        logits,
        params,
        prompt_ids,
        output_ids,
        bad_words=bad_words,
        stop_ids=stop_ids,
        vocab_size=vocab_size,
        mask=mask,
    )
    if processed is not logits:
        _largest(logits)
        if processed.max() == -np.inf:
            last = " or min_tokens" if mask is None else ", min_tokens or structured_outputs"
            raise InvalidRequestError(
                f"no token is left to choose after {len(output_ids)} tokens; "
                f"loosen allowed_token_ids, bad_words, no_repeat_ngram_size{last}"
            )
    return processed


def apply_options(
    logits: Logits,
    params: LogitsOptions,
    prompt_ids: Sequence[int],
    output_ids: Sequence[int],
    *,
    bad_words: Sequence[Sequence[int]] = (),
    stop_ids: Collection[int] = (),
    vocab_size: int | None = None,
    mask: TokenMask | None = None,
) -> Logits:
    """As process_logits, but checks nothing: all of what it returns may be -inf.

    In order: padding, logit_bias, repetition_penalty, frequency_penalty, presence_penalty, no_repeat_ngram_size,
    bad_words, min_tokens, allowed_token_ids, mask. The order of the masks makes no difference, and that of the others
    is the one on which transformers and vLLM agree: a bias changes what is penalised.
    """
    if vocab_size is not None:
        logits = processors.apply_vocabulary_size(logits, vocab_size)
    if params.logit_bias:
        logits = processors.apply_logit_bias(logits, params.logit_bias)
    history: Sequence[int] = ()
    if params.repetition_penalty != 1.0 or params.no_repeat_ngram_size > 0 or bad_words:
        history = [*prompt_ids, *output_ids]
    logits = processors.apply_repetition_penalty(logits, history, params.repetition_penalty)
    logits = processors.apply_frequency_penalty(logits, output_ids, params.frequency_penalty)
    logits = processors.apply_presence_penalty(logits, output_ids, params.presence_penalty)
    logits = processors.apply_no_repeat_ngram(logits, history, params.no_repeat_ngram_size)
    logits = processors.apply_bad_words(logits, history, bad_words)
    if len(output_ids) < params.min_tokens:
        logits = processors.apply_suppress(logits, stop_ids)
    if params.allowed_token_ids is not None:
        logits = processors.apply_allowed_token_ids(logits, params.allowed_token_ids)
    if mask is not None:
        logits = processors.apply_token_mask(logits, mask)
    return logits


def distribution(logits: Logits, params: SamplingParams) -> Probabilities:
    """The probabilities that a token is drawn from: float32 (V,) -> float64 (V,).

    Top-k, temperature, top-p, min-p and typical-p, in this order, which gives what transformers' does: a temperature
    changes no ranks. Temperature 0 gives all to the likeliest token, to the lowest id of those that are equal.
    Raises NumericalError as log_softmax does.
    """
    token_masses = _masses(logits, params)
    return np.asarray(token_masses / float(token_masses.sum()))


def choose(logits: Logits, params: SamplingParams, uniform_number: float) -> int:
    """The token that a random number in [0, 1) picks: the first, by id, at which the sum of probabilities exceeds it.

    Of the number 53 bits count. A token of probability 0 is never picked. At temperature 0 the number makes no
    difference.
    Example: probabilities [0.5, 0, 0.5] give token 0 below 0.5 and token 2 from there on.
    Raises NumericalError as log_softmax does.
    """
    cumulative = np.cumsum(_masses(logits, params))
    drawn = int(uniform_number * 2.0**53) * int(cumulative[-1]) >> 53
    return int(np.searchsorted(cumulative, drawn, side="right"))


def log_softmax(logits: Logits) -> Logits:
    """Natural logarithms of the probabilities: float32 (V,) -> float32 (V,).

    Raises NumericalError if the logits hold NaN or +inf, or no finite number.
    """
    peak = np.float64(_largest(logits))
    total = int(masses(processors.below_peak(logits)).sum())
    return ((logits.astype(np.float64) - peak) - log(total * 2.0**-MASS_BITS)).astype(np.float32)


def top_logprobs(logits: Logits, k: int) -> list[tuple[int, float]]:
    """The k likeliest tokens as (token id, log-probability), likeliest first, equal ones by id."""
    logprobs = log_softmax(logits)
    return [(int(token_id), float(logprobs[token_id])) for token_id in processors.largest(logits, k)]


def _masses(logits: Logits, params: SamplingParams) -> Masses:
    """What `distribution` is in proportion to: whole numbers, see `arithmetic`."""
    return masses(reshaped(logits, params))


def reshaped(logits: Logits, params: SamplingParams) -> Logits:
    """The logits whose softmax `distribution` is, the largest of them at most 0: those that were cut are -inf.

    Unlike a probability, no logit that stays becomes too small to be told from one that was cut.
    """
    _largest(logits)
    if params.temperature == 0.0:
        certain = np.full(len(logits), -np.inf, dtype=np.float32)
        certain[int(np.argmax(logits))] = 0.0
        return certain
    logits = processors.apply_top_k(logits, params.top_k)
    # With the largest at 0 no temperature overflows, and the differences that matter keep their precision.
    logits = processors.apply_temperature(processors.below_peak(logits), params.temperature)
    logits = processors.apply_top_p(logits, params.top_p)
    logits = processors.apply_min_p(logits, params.min_p)
    return processors.apply_typical_p(logits, params.typical_p)


def _largest(logits: Logits) -> np.float32:
    """The largest logit, or NumericalError if that is no finite number; NaN anywhere makes it NaN."""
    peak = logits.max()
    if np.isfinite(peak):
        return np.float32(peak)
    if np.isnan(peak):
        raise NumericalError(
            f"the logits hold NaN, first at token {int(np.argmax(np.isnan(logits)))}; check the weights"
        )
    if peak > 0:
        raise NumericalError(f"the logit of token {int(np.argmax(logits))} is infinite; check the weights")
    raise NumericalError("every logit is -inf, so that no token can be chosen; check the weights")
