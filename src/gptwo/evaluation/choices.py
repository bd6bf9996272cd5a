"""Several endings, one of them right: which one does the model find likeliest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gptwo.errors import InvalidRequestError
from gptwo.evaluation.questions import Progress, answer, encode_questions, tokenizer_of
from gptwo.language_model import LanguageModel


@dataclass(frozen=True)
class Choice:
    """A context, the endings that might follow it, and which of them does."""

    context: str
    endings: tuple[str, ...]
    """With the space before them."""
    right: int
    """Index of the right one."""


@dataclass(frozen=True)
class Choices:
    """How often a model finds the right ending likeliest. Shares are from 0 to 1."""

    examples: int
    cut: int
    """Endings' contexts that lost their beginning, because the model has too few positions, counted by example."""
    accuracy: float
    """By the endings' log-probabilities."""
    accuracy_norm: float | None
    """By log-probability per character, so that short endings have no advantage; None where nobody does so."""

    def measures(self) -> dict[str, float]:
        """The figures by name."""
        normed = {} if self.accuracy_norm is None else {"accuracy_norm": self.accuracy_norm}
        return {"accuracy": self.accuracy, **normed}


def choose(
    lm: LanguageModel, choices: Sequence[Choice], *, by_length: bool = True, progress: Progress | None = None
) -> Choices:
    """Let a model choose. Of equal endings the first wins.

    by_length: whether to choose by log-probability per character too. Raises InvalidRequestError for no examples.
    """
    tokenizer = tokenizer_of(lm)
    if not choices:
        raise InvalidRequestError("there are no examples", param="examples")
    questions = encode_questions(tokenizer, ((choice.context, choice.endings) for choice in choices))
    cut = right = right_by_length = 0
    for choice, (likelihoods, was_cut) in zip(choices, answer(lm, questions, len(choices), progress), strict=True):
        totals = [likelihood.total for likelihood in likelihoods]
        lengths = [max(1, len(ending.removeprefix(" "))) for ending in choice.endings]
        means = [total / length for total, length in zip(totals, lengths, strict=True)]
        cut += was_cut
        right += totals.index(max(totals)) == choice.right
        right_by_length += means.index(max(means)) == choice.right
    count = len(choices)
    return Choices(count, cut, right / count, right_by_length / count if by_length else None)
