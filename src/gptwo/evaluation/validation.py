"""The loss on tokens that were made for validation, which training takes too."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gptwo import scoring
from gptwo.errors import InvalidRequestError
from gptwo.evaluation.questions import Progress
from gptwo.language_model import LanguageModel


class Tokens(Protocol):
    """A sequence of token ids, some of which may be there to be read but not to be learned."""

    def __len__(self) -> int:
        """How many there are."""

    def window(self, start: int, length: int, /) -> npt.NDArray[np.int64]:
        """`length` ids from position `start` on, int64 (length,)."""

    def learned(self, start: int, length: int, /) -> npt.NDArray[np.bool_]:
        """Which of the same tokens are to be learned, bool (length,)."""


@dataclass(frozen=True)
class ValidationLoss:
    """How well a model predicts the tokens that are to be learned; the very first has nothing before it."""

    tokens: int
    """Predicted."""
    not_learned: int
    """Tokens that were only read, such as prompts."""
    left_out: int
    """Tokens behind all those, which a limit has left out."""
    nats: float
    """Negative log-probability of those that were predicted."""
    characters: int | None
    """Of the text that all the tokens encode; None if nobody counted them, or if not all were predicted."""
    positions: int
    """The longest context."""
    stride: int
    """Tokens from the beginning of a window to that of the next."""

    @property
    def loss(self) -> float:
        """nats / tokens."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens)."""
        return scoring.perplexity(self.nats, self.tokens)

    @property
    def nats_per_character(self) -> float | None:
        """The loss by the tokens of a character, the very first among them: as training shows it."""
        return self.loss * (self.tokens + 1) / self.characters if self.characters else None

    def measures(self) -> dict[str, float]:
        """The figures by name."""
        by_character = self.nats_per_character
        known = {} if by_character is None else {"nats_per_character": by_character}
        return {"loss": self.loss, "perplexity": self.perplexity, **known}


def validation_loss(
    lm: LanguageModel,
    tokens: Tokens,
    *,
    characters: int | None = None,
    stride: int | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ValidationLoss:
    """How well a model predicts tokens that are to be learned, in the windows of `scoring.windows`.

    characters: of the text that the tokens encode, if they were counted. stride: None is all of the positions, so that
    windows lie end to end, as in training. limit: the first so many windows only.
    Raises InvalidRequestError if nothing is to be predicted, or for a stride that is not 1 to the model's positions.
    """
    positions = lm.config.n_positions
    stride = positions if stride is None else stride
    asked: deque[npt.NDArray[np.bool_]] = deque()  # of each question: which tokens of its continuation count
    end = not_learned = 0

    def questions() -> Iterator[tuple[list[int], list[list[int]]]]:
        nonlocal end, not_learned
        for start, end, fresh in itertools.islice(scoring.windows(len(tokens), positions, stride), limit):
            learned = tokens.learned(end - fresh, fresh)
            places = np.flatnonzero(learned)
            not_learned += fresh - len(places)
            if len(places):  # logits are made from the first token that counts to the last
                first, last = int(places[0]), int(places[-1]) + 1
                cut = end - fresh + first
                asked.append(learned[first:last])
                yield (
                    tokens.window(start, cut - start).tolist(),
                    [tokens.window(cut, last - first).tolist()],
                )

    nats: list[float] = []  # of each window
    count = 0
    for (likelihood,) in lm.likelihoods(questions(), shares=False):
        learned = asked.popleft()
        nats.append(-math.fsum(itertools.compress(likelihood.logprobs, learned)))
        count += int(np.count_nonzero(learned))
        if progress is not None:
            progress(end / len(tokens))
    if not count:
        raise InvalidRequestError("there is nothing to predict: none of the tokens is to be learned", param="tokens")
    left_out = len(tokens) - end
    return ValidationLoss(
        tokens=count,
        not_learned=not_learned,
        left_out=left_out,
        nats=math.fsum(nats),
        characters=None if left_out or not_learned else characters,
        positions=positions,
        stride=stride,
    )
