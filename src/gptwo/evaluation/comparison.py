"""How far apart two decoders are on a text: what packing weights costs.

T tokens of a window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gptwo.decoder.protocol import Decoder, Floats
from gptwo.errors import InvalidRequestError
from gptwo.sampling.native import token_logprobs
from gptwo.scoring import perplexity

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

    The text is read in windows that lie end to end, as `scoring.windows` has them at a stride of all positions, so that
    each token is computed once and each but the first predicted. Logits are held for 64 tokens at a time. advance:
    called with the share that is done.

    Raises InvalidRequestError for no tokens, and what the decoders raise.
    """
    if not token_ids:
        raise InvalidRequestError("there is nothing to compare on: the text has no tokens", param="text")
    ids = np.asarray(token_ids, np.int64)
    positions = one.config.n_positions
    total, worst = 0.0, 0.0
    losses = [0.0, 0.0]
    for begin in range(0, len(ids), positions):
        text = ids[begin : begin + positions]  # (T,)
        sequences = (one.open(), other.open())
        try:
            for start in range(0, len(text), _CHUNK):
                chunk, following = text[start : start + _CHUNK], ids[begin + start + 1 :][:_CHUNK]
                logits = [
                    _logits(decoder, sequence, chunk, start)
                    for decoder, sequence in zip((one, other), sequences, strict=True)
                ]  # 2 x (up to 64, V)
                for which in range(2):
                    losses[which] += _loss(logits[which], following)
                logits[0] -= logits[1]
                difference = np.abs(logits[0], out=logits[0])
                total += float(difference.sum(dtype=np.float64))
                worst = max(worst, float(difference.max()))
                advance((begin + start + len(chunk)) / len(ids))
        finally:
            one.close(sequences[0])
            other.close(sequences[1])
    perplexities = [perplexity(loss, len(ids) - 1) for loss in losses]
    return Comparison(len(ids), total / (len(ids) * one.config.vocab_size), worst, *perplexities)


def _logits(decoder: Decoder, sequence: int, token_ids: np.ndarray[tuple[int], np.dtype[np.int64]], at: int) -> Floats:
    count = len(token_ids)
    rows = np.arange(count)
    return decoder.forward(token_ids, np.full(count, sequence, np.int64), rows + at, rows)


def _loss(logits: Floats, token_ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """The negative log-probabilities of tokens, summed, in nats. logits (T, V); token_ids (T,), or one less."""
    loss = 0.0
    for row, token in zip(logits, token_ids.tolist(), strict=False):
        logprob = token_logprobs(row, token, 0).logprob
        assert logprob is not None
        loss -= logprob
    return loss
