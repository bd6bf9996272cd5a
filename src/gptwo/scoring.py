"""How likely a model finds a text: the windows in which a long one is read, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gptwo.errors import InvalidRequestError
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
        if not self.scored:
            return math.nan
        try:
            return math.exp(-self.total / self.scored)
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Negative log-probability in bits for each byte of text; None where there are no bytes to count."""
        return -self.total / math.log(2.0) / self.bytes if self.bytes else None


class Window(NamedTuple):
    """Tokens `start` to `end` of a text, of which the last `fresh` are scored."""

    start: int
    end: int
    fresh: int


def windows(length: int, positions: int) -> Iterator[Window]:
    """The parts in which a text of `length` tokens is read by a model with so many positions.

    They overlap by half, and each token but the first is scored once, where it has most before it. Raises
    InvalidRequestError for a text without tokens, or with several for a model that sees one.
    """
    if not length:
        raise InvalidRequestError("there is nothing to score: the text has no tokens", param="text")
    if positions == 1 < length:
        raise InvalidRequestError("the model has a single position: no token has one before it", param="text")
    scored = 1
    for start in range(0, length, max(1, positions // 2)):
        if scored == length:
            return
        end = min(start + positions, length)
        yield Window(start, end, end - scored)
        scored = end


def make_score(ids: Sequence[int], logprobs: Sequence[float | None], tokenizer: Tokenizer | None) -> Score:
    """The score of a text from the log-probabilities of its tokens, the first of which is None."""
    size = None
    if tokenizer is not None:
        known = (token for token in ids[1:] if token < tokenizer.vocab_size)  # padding has no text
        size = sum(len(tokenizer.token_bytes(token)) for token in known)
    return Score(tuple(ids), tuple(logprobs), size)
