"""Logits processors: small pure functions from logits to logits.

Each takes float32 (V,) and returns float32 (V,), where V is the vocabulary and -inf means that a token cannot be
chosen. None changes what it is given; one that has nothing to do returns the very array it was given. None looks for
NaN: the sampler does. Where tokens are equally good and not all may stay, the lower ids stay.

The truncations (top-k, top-p, min-p, typical-p) always leave at least one token that was there before: the likeliest,
or for typical-p the most typical. Probabilities are shares of a sum of whole numbers; see `arithmetic`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gptwo.sampling.arithmetic import Masses, log, masses, share_of

Logits = npt.NDArray[np.float32]
TokenIds = npt.NDArray[np.int64]
TokenMask = npt.NDArray[np.uint32]

_REMOVED = np.float32(-np.inf)


def apply_temperature(logits: Logits, temperature: float) -> Logits:
    """Divide by `temperature`, which is above 0: below 1 sharpens the distribution, above 1 flattens it.

    Logits whose largest is 0 cannot overflow, however small the temperature.
    Example: logits [1, 2, 4] have the probabilities [0.0420, 0.1142, 0.8438], and at temperature 3
    [0.1955, 0.2729, 0.5315].
    Source: Ackley, Hinton and Sejnowski 1985, "A learning algorithm for Boltzmann machines", equation 5.
    """
    if temperature == 1.0:
        return logits
    # In float64, since a temperature may be below what float32 can hold.
    with np.errstate(over="ignore"):
        return (logits.astype(np.float64) / temperature).astype(np.float32)


def apply_top_k(logits: Logits, top_k: int) -> Logits:
    """Keep the `top_k` likeliest tokens; 0 or less keeps all.

    Example: [1, 3, 2, 3] with top_k = 1 keeps token 1 only: of the equal tokens 1 and 3 the lower id stays.
    Source: Fan, Lewis and Dauphin 2018, "Hierarchical neural story generation", section 5.3.
    """
    if top_k <= 0 or top_k >= len(logits):
        return logits
    return _keep(logits, largest(logits, top_k))


def apply_top_p(logits: Logits, top_p: float) -> Logits:
    """Keep the smallest set of tokens whose probabilities reach `top_p`, likeliest first; 1 keeps all.

    The likeliest token always stays, so top_p = 0 is greedy.
    Example: probabilities [0.5, 0.3, 0.2] with top_p = 0.7 keep the first two.
    Source: Holtzman et al. 2020, "The curious case of neural text degeneration", section 3.1.
    """
    if top_p >= 1.0:
        return logits
    token_masses = masses(below_peak(logits))
    order = np.argsort(-logits, kind="stable")
    return _keep(logits, order[: _reaching(token_masses[order], top_p)])


def apply_min_p(logits: Logits, min_p: float) -> Logits:
    """Keep the tokens at least `min_p` times as likely as the likeliest; 0 keeps all.

    Example: probabilities [0.5, 0.3, 0.2] with min_p = 0.5 keep the first two, since 0.2 < 0.5 * 0.5 <= 0.3.
    Source: Nguyen et al. 2024, "Turning up the heat: min-p sampling for creative and coherent LLM outputs", section 3.
    """
    if min_p <= 0.0:
        return logits
    # A ratio of probabilities is a difference of logits.
    floor = np.float64(logits.max()) + log(min_p)
    return np.where(logits.astype(np.float64) < floor, _REMOVED, logits)


def apply_typical_p(logits: Logits, typical_p: float) -> Logits:
    """Keep the tokens whose surprise is nearest to the expected one until their probabilities reach `typical_p`.

    The surprise of a token is -log p, the expected one the entropy of the distribution. 1 keeps all. The likeliest
    token may be among those that go; the most typical one always stays.
    Example: probabilities [0.5, 0.3, 0.2] have the entropy 1.030 and the surprises [0.693, 1.204, 1.609], at distances
    [0.337, 0.174, 0.580]; typical_p = 0.2 keeps the second token only, 0.7 the first two.
    Source: Meister et al. 2023, "Locally typical sampling", section 3.
    """
    if typical_p >= 1.0:
        return logits
    below = below_peak(logits)
    token_masses = masses(below)
    ids = np.flatnonzero(token_masses)  # a token may be too unlikely to count; 0 log 0 is 0
    token_masses, below_here = token_masses[ids], below[ids].astype(np.float64)
    # log p is `below` less a constant, which cancels out: the surprise's distance from the expected one is that of
    # `below` from its mean. The sum is taken one after another; np.sum would pair up as it likes.
    expected = np.cumsum(token_masses.astype(np.float64) * below_here)[-1] / float(token_masses.sum())
    distance = np.abs(below_here - expected).astype(np.float32)
    order = np.argsort(distance, kind="stable")
    return _keep(logits, ids[order[: _reaching(token_masses[order], typical_p)]])


def apply_repetition_penalty(logits: Logits, history: Sequence[int], penalty: float) -> Logits:
    """Divide the positive logits of the tokens in `history` by `penalty`, and multiply the negative ones.

    history: prompt and output, as in transformers and vLLM; how often a token occurs there makes no difference.
    Example: logits [2, -2, 2] with history [0, 1, 1] and penalty 2 become [1, -4, 2].
    Source: Keskar et al. 2019, "CTRL: a conditional transformer language model", section 4.1, and, for the negative
    logits, the practice since.
    """
    if penalty == 1.0 or len(history) == 0:
        return logits
    ids = np.unique(_as_ids(history))
    processed = logits.copy()
    chosen = processed[ids]
    processed[ids] = np.where(chosen < 0, chosen * np.float32(penalty), chosen / np.float32(penalty))
    return processed


def apply_frequency_penalty(logits: Logits, output: Sequence[int], penalty: float) -> Logits:
    """Take `penalty` off the logit of each token of `output` as many times as it occurs there.

    Example: logits [1, 1, 1] with output [0, 0, 1] and penalty 0.5 become [0, 0.5, 1].
    Source: OpenAI's API reference, "Frequency and presence penalties".
    """
    if penalty == 0.0 or len(output) == 0:
        return logits
    ids, counts = np.unique(_as_ids(output), return_counts=True)
    processed = logits.copy()
    processed[ids] -= np.float32(penalty) * counts.astype(np.float32)
    return processed


def apply_presence_penalty(logits: Logits, output: Sequence[int], penalty: float) -> Logits:
    """Take `penalty` off the logit of each token that occurs in `output`, once.

    Example: logits [1, 1, 1] with output [0, 0, 1] and penalty 0.5 become [0.5, 0.5, 1].
    Source: as apply_frequency_penalty.
    """
    if penalty == 0.0 or len(output) == 0:
        return logits
    processed = logits.copy()
    processed[np.unique(_as_ids(output))] -= np.float32(penalty)
    return processed


def apply_no_repeat_ngram(logits: Logits, history: Sequence[int], size: int) -> Logits:
    """Remove the tokens that would make the last `size` tokens a run that `history` holds already; 0 is off.

    history: prompt and output.
    Example: history [1, 2, 3, 1, 2] with size 3 removes token 3, since 1 2 3 is there.
    Source: Paulus, Xiong and Socher 2018, "A deep reinforced model for abstractive summarization", section 2.5.
    """
    if size <= 0 or len(history) < size:
        return logits
    ids = _as_ids(history)
    runs = np.lib.stride_tricks.sliding_window_view(ids, size)  # (T - size + 1, size)
    begun = ids[len(ids) - size + 1 :]  # (size - 1,)
    return apply_suppress(logits, runs[(runs[:, :-1] == begun).all(axis=1), -1])


def apply_logit_bias(logits: Logits, bias: Mapping[int, float]) -> Logits:
    """Add to the logits of some token ids.

    Example: logits [1, 2, 3] with {0: 5, 2: -1} become [6, 2, 2].
    Source: OpenAI's API reference, `logit_bias`.
    """
    if not bias:
        return logits
    processed = logits.copy()
    processed[_as_ids(bias.keys())] += np.fromiter(bias.values(), np.float32, len(bias))
    return processed


def apply_allowed_token_ids(logits: Logits, allowed: Collection[int]) -> Logits:
    """Remove all tokens but these.

    Example: logits [1, 2, 3] with [0, 2] become [1, -inf, 3].
    """
    return _keep(logits, _as_ids(allowed))


def apply_suppress(logits: Logits, token_ids: Collection[int]) -> Logits:
    """Remove these tokens.

    Example: logits [1, 2, 3] with [1] become [1, -inf, 3].
    """
    if len(token_ids) == 0:
        return logits
    processed = logits.copy()
    processed[_as_ids(token_ids)] = _REMOVED
    return processed


def apply_bad_words(logits: Logits, history: Sequence[int], bad_words: Sequence[Sequence[int]]) -> Logits:
    """Remove the tokens that would complete a bad word: a sequence of token ids, none empty.

    A word of one token is removed always, a longer one only where all of it but its last token ends `history`.
    history: prompt and output, so that a word begun in the prompt is not completed either.
    Example: with the bad words [5] and [1, 2, 3], history [0, 1, 2] removes 5 and 3, history [2, 1] only 5.
    """
    completing = [word[-1] for word in bad_words if _ends_with(history, word[:-1])]
    return apply_suppress(logits, completing)


def apply_vocabulary_size(logits: Logits, vocab_size: int) -> Logits:
    """Remove the ids from `vocab_size` on: rows of a padded embedding, which stand for no token.

    Example: logits [1, 2, 3] with vocab_size 2 become [1, 2, -inf].
    """
    if vocab_size >= len(logits):
        return logits
    processed = logits.copy()
    processed[vocab_size:] = _REMOVED
    return processed


def apply_token_mask(logits: Logits, mask: TokenMask) -> Logits:
    """Remove the tokens whose bit is not set, and those that the mask has no bit for.

    mask: uint32 (words,), the bits of a word from its lowest on: token i is bit i % 32 of word i // 32.
    Example: logits [1, 2, 3] with the mask [0b101] become [1, -inf, 3].
    """
    bits = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")[: len(logits)]
    return _keep(logits, np.flatnonzero(bits))


def below_peak(logits: Logits) -> Logits:
    """The logits less the largest of them, which becomes 0.

    Example: logits [1, 3, -inf] become [-2, 0, -inf].
    """
    with np.errstate(over="ignore"):  # what is more than float32 holds below the peak might as well be infinitely far
        return np.asarray(logits - logits.max())


def largest(values: npt.NDArray[np.floating[Any]], count: int) -> TokenIds:
    """Indices of the `count` largest of `values` (N,), largest first and equal ones by index; int64 (count,).

    Partitions instead of sorting, so that the time is that of reading `values`. Values must not be NaN.
    Example: largest([1, 3, 2, 3], 3) == [1, 3, 2]
    """
    count = min(count, len(values))
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    if count < len(values):
        threshold = np.partition(values, len(values) - count)[len(values) - count]
        indices = np.flatnonzero(values >= threshold)
    else:
        indices = np.arange(len(values))
    order = np.argsort(-values[indices], kind="stable")
    return indices[order[:count]].astype(np.int64)


def _as_ids(ids: Collection[int]) -> TokenIds:
    return np.asarray(ids if isinstance(ids, (list, tuple, np.ndarray)) else list(ids), dtype=np.int64)


def _keep(logits: Logits, ids: TokenIds) -> Logits:
    kept = np.full_like(logits, _REMOVED)
    kept[ids] = logits[ids]
    return kept


def _reaching(token_masses: Masses, share: float) -> int:
    """How many of the masses, from the first on, it takes to reach `share` of all of them; at least one.

    Example: of [5, 3, 2] two reach 0.7, and two reach 0.8.
    """
    cumulative = np.cumsum(token_masses)
    return int(np.searchsorted(cumulative, share_of(int(cumulative[-1]), share), side="left")) + 1


def _ends_with(history: Sequence[int], ending: Sequence[int]) -> bool:
    return len(ending) <= len(history) and list(history[len(history) - len(ending) :]) == list(ending)
