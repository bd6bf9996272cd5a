"""How likely a model finds a text: the windows in which a long one is read, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gptwo.errors import InvalidRequestError
from gptwo.options import integer
from gptwo.tokenizer import Tokenizer


@dataclass(frozen=True)
class Score:
    """How likely the model finds a text. Logarithms are natural."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    """One for each token, given those before it; None for the first."""
    bytes: int | None
    """UTF-8 bytes of the tokens that have a log-probability; None for token ids without a tokenizer."""

    @property
    def total(self) -> float:
        """Sum of the log-probabilities, in nats."""
        return math.fsum(value for value in self.logprobs if value is not None)

    @property
    def scored(self) -> int:
        """Tokens that have a log-probability: all but the first."""
        return len(self.logprobs) - 1

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability; NaN for a text of a single token."""
        return perplexity(-self.total, self.scored)

    @property
    def bits_per_byte(self) -> float | None:
        """Negative log-probability in bits for each byte of text; None where there are no bytes to count."""
        return -self.total / math.log(2.0) / self.bytes if self.bytes else None


def perplexity(nats: float, count: int) -> float:
    """exp(nats / count): of `count` tokens, or words, that cost so many nats. NaN for none, inf beyond a float."""
    if not count:
        return math.nan
    try:
        return math.exp(nats / count)
    except OverflowError:
        return math.inf


class Window(NamedTuple):
    """Tokens `start` to `end` of a text, of which the last `fresh` are scored. The very last is only predicted."""

    start: int
    end: int
    fresh: int


def default_stride(positions: int) -> int:
    """Half of the positions."""
    return max(1, positions // 2)


def windows(length: int, positions: int, stride: int | None = None) -> Iterator[Window]:
    """The parts in which a text of `length` tokens is read by a model with so many positions.

    Each token but the first is scored once, in the window where it has most before it: at least positions - stride
    tokens, and never none. stride: tokens from the beginning of a window to that of the next, 1 to `positions`; None is
    half of them. A small one costs more passes and gives each token more to go by. These are the windows of
    transformers' guide to perplexity; at a stride of all positions, where that leaves out the first token of
    every window, a window has one token more, which is only predicted: so does a validation loss see its windows.
    Raises InvalidRequestError for a text without tokens, or a stride out of range.

    Example: windows(8, 4, 2) reads tokens 0-3, 2-5 and 4-7, and scores 1-3, 4-5 and 6-7.
    """
    if not length:
        raise InvalidRequestError("there is nothing to score: the text has no tokens", param="text")
    stride = default_stride(positions) if stride is None else stride
    integer(1, positions)("stride", stride)
    size = max(positions, stride + 1)
    scored = 1
    for start in range(0, length, stride):
        if scored == length:
            return
        end = min(start + size, length)
        yield Window(start, end, end - scored)
        scored = end


def make_score(ids: Sequence[int], logprobs: Sequence[float | None], tokenizer: Tokenizer | None) -> Score:
    """The score of a text from the log-probabilities of its tokens, the first of which is None."""
    size = None
    if tokenizer is not None:
        known = (token for token in ids[1:] if token < tokenizer.vocab_size)  # padding has no text
        size = sum(len(tokenizer.token_bytes(token)) for token in known)
    return Score(tuple(ids), tuple(logprobs), size)
