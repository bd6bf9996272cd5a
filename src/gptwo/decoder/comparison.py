"""How far apart two decoders are on a text: what packing weights costs.

T tokens of a window, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gptwo.decoder.protocol import Decoder, Floats
from gptwo.errors import InvalidRequestError

_CHUNK = 64  # tokens whose logits are held at once


@dataclass(frozen=True)
class Comparison:
    """Two decoders on the same tokens."""

    tokens: int
    """Whose logits were compared."""
    mean_difference: float
    """Mean of |difference| over all logits."""
    worst_difference: float
    """Largest |difference| of a logit."""
    perplexity: float
    """Of the first decoder; NaN where no token has one before it, as for the other."""
    other_perplexity: float


def compare(
    one: Decoder, other: Decoder, token_ids: Sequence[int], advance: Callable[[float], None] = lambda share: None
) -> Comparison:
    """Run the same tokens through two decoders of one configuration and compare their logits.

    The text is read in windows of the model's positions that lie end to end; in each, every token but the first is
    predicted from those before it. Logits are held for 64 tokens at a time. advance: called with the share that is
    done.

    Raises InvalidRequestError for no tokens, and what the decoders raise.
    """
    if not token_ids:
        raise InvalidRequestError("there is nothing to compare on: the text has no tokens", param="text")
    ids = np.asarray(token_ids, np.int64)
    window = one.config.n_positions
    total, worst, scored = 0.0, 0.0, 0
    losses = [0.0, 0.0]
    for begin in range(0, len(ids), window):
        text = ids[begin : begin + window]  # (T,)
        sequences = (one.open(), other.open())
        try:
            for start in range(0, len(text), _CHUNK):
                chunk, following = text[start : start + _CHUNK], text[start + 1 : start + _CHUNK + 1]
                logits = [
                    _logits(decoder, sequence, chunk, start)
                    for decoder, sequence in zip((one, other), sequences, strict=True)
                ]  # 2 x (up to 64, V)
                for which in range(2):
                    losses[which] += _loss(logits[which][: len(following)], following)
                scored += len(following)
                logits[0] -= logits[1]
                difference = np.abs(logits[0], out=logits[0])
                total += float(difference.sum(dtype=np.float64))
                worst = max(worst, float(difference.max()))
                advance((begin + start + len(chunk)) / len(ids))
        finally:
            one.close(sequences[0])
            other.close(sequences[1])
    perplexities = [_exp(loss / scored) if scored else math.nan for loss in losses]
    return Comparison(len(ids), total / (len(ids) * one.config.vocab_size), worst, *perplexities)


def _logits(decoder: Decoder, sequence: int, token_ids: np.ndarray[tuple[int], np.dtype[np.int64]], at: int) -> Floats:
    count = len(token_ids)
    rows = np.arange(count)
    return decoder.forward(token_ids, np.full(count, sequence, np.int64), rows + at, rows)


def _loss(logits: Floats, token_ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """The negative log-probabilities of tokens, summed, in nats. logits (T, V), token_ids (T,)."""
    loss = 0.0
    for row, token in zip(logits, token_ids.tolist(), strict=True):
        peak = float(row.max())
        loss += peak + math.log(float(np.exp(row - np.float32(peak)).sum(dtype=np.float64))) - float(row[token])
    return loss


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
