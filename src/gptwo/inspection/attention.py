"""Where the heads look: their patterns on a text, and how much of it is induction.

L layers, H heads, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gptwo.errors import InvalidRequestError
from gptwo.inspection.changes import Floats
from gptwo.inspection.checks import check_inspector
from gptwo.inspection.prediction import log_probabilities
from gptwo.inspection.result import Result
from gptwo.options import integer

if TYPE_CHECKING:
    from gptwo.inspection.inspector import Inspector
    from gptwo.loading import Prompt

Doubles = npt.NDArray[np.float64]

INDUCTION_HEAD = 0.3
"""The induction score from which a head is called one; those of GPT-2 reach 0.9."""


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPatterns(Result):
    """Where each position of a text looks, in each head."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """The text of each token."""
    patterns: Floats
    """(L, H, T, T): row i of a head's pattern is how much position i takes from each position; it sums to 1."""


def attention_patterns(inspector: Inspector, prompt: Prompt) -> AttentionPatterns:
    """The attention pattern of every head on a text. Raises what `Inspector.run` does."""
    check_inspector(inspector)
    run = inspector.run(prompt, keep="h.*.attn.pattern")
    return AttentionPatterns(run.token_ids, run.tokens, np.stack(list(run.activations.values())))


@dataclass(frozen=True, eq=False, repr=False)
class InductionScores(Result):
    """How much each head looks at certain positions of random tokens that are repeated once: 0 to 1."""

    induction: Doubles
    """(L, H): attention to the token after the earlier occurrence of the present one: what came next the last time."""
    previous_token: Doubles
    """(L, H): attention to the token before the present one, which an induction head builds upon."""
    duplicate_token: Doubles
    """(L, H): attention to the earlier occurrence itself."""
    first_loss: float
    """Mean nats a token of the first half, which nothing can predict."""
    second_loss: float
    """The same of the second half: far less if the model sees the repetition."""

    @property
    def summary(self) -> str:
        """Which head scores highest, or that none is an induction head to speak of (INDUCTION_HEAD)."""
        layer, head = np.unravel_index(self.induction.argmax(), self.induction.shape)
        highest = f"{self.induction.max():.2f}, of layer {layer}, head {head}"
        if self.induction.max() < INDUCTION_HEAD:
            return f"No head is an induction head to speak of: the highest score is {highest}."
        return f"The highest induction score is {highest}."


def induction_scores(
    inspector: Inspector, *, length: int | None = None, sequences: int = 4, seed: int = 0
) -> InductionScores:
    """Look for induction heads: in "A B … A" they look at B, and so predict it.

    Each of `sequences` texts is `length` tokens, drawn at random without repetition, twice. The scores are means over
    the second half (previous_token over all) and the sequences. length: by default 50, or less in a model of fewer
    positions or tokens. Raises InvalidRequestError for a length that does not fit.
    Source: Olsson et al. 2022, "In-context learning and induction heads", section "Defining induction heads".
    """
    check_inspector(inspector)
    config = inspector.config
    known = inspector.tokenizer.vocab_size if inspector.tokenizer is not None else config.vocab_size
    longest = min(config.n_positions // 2, known)
    if longest < 2:
        raise InvalidRequestError("induction needs a model of at least 4 positions and 2 tokens")
    length = min(50, longest) if length is None else int(integer(2, longest)("length", length) or 0)
    integer(1)("sequences", sequences)
    draw = np.random.default_rng(int(integer(0)("seed", seed) or 0))
    queries = np.arange(length, 2 * length)
    sums = np.zeros((3, config.n_layer, config.n_head))
    losses = np.zeros(2)
    for _ in range(sequences):
        half = draw.choice(known, length, replace=False)
        ids = np.concatenate([half, half])
        run = inspector.run(ids.tolist(), keep=["h.*.attn.pattern", "logits"])
        for layer in range(config.n_layer):
            pattern = run[f"h.{layer}.attn.pattern"]  # (H, T, T)
            sums[0, layer] += pattern[:, queries, queries - length + 1].mean(axis=1)
            sums[1, layer] += pattern[:, np.arange(1, len(ids)), np.arange(len(ids) - 1)].mean(axis=1)
            sums[2, layer] += pattern[:, queries, queries - length].mean(axis=1)
        nats = -np.take_along_axis(log_probabilities(run["logits"][:-1]), ids[1:, None], axis=1)[:, 0]  # (T - 1,)
        # The first token of the second half is as random as the first half.
        losses += nats[: length - 1].mean(), nats[length:].mean()
    scores, losses = sums / sequences, losses / sequences
    return InductionScores(scores[0], scores[1], scores[2], float(losses[0]), float(losses[1]))
