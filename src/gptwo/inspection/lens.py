"""The logit lens: what the model would say if it ended after each of its layers.

L layers, P positions looked at, K tokens shown, V vocabulary.
Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gptwo.inspection.changes import Floats
from gptwo.inspection.checks import check_inspector
from gptwo.inspection.prediction import log_probabilities
from gptwo.inspection.result import Result
from gptwo.options import integer
from gptwo.sampling.processors import largest

if TYPE_CHECKING:
    from gptwo.inspection.inspector import Inspector
    from gptwo.loading import Prompt

Integers = npt.NDArray[np.int64]

ROWS_AT_ONCE = 64  # of logits: 13 MB of GPT-2's vocabulary


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Result):
    """What each layer would predict at each position."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """The text of each token."""
    layers: tuple[str, ...]
    """L + 1 names: "embeddings", then "h.0" and on."""
    positions: Integers
    """(P,): where in the text the predictions are made."""
    top_ids: Integers
    """(L + 1, P, K): the likeliest next tokens, likeliest first."""
    top_probabilities: Floats
    """(L + 1, P, K)"""
    target_ids: Integers
    """(P,): the token that comes next in the text; after its last one, the token that the model finds likeliest."""
    target_probabilities: Floats
    """(L + 1, P)"""
    target_ranks: Integers
    """(L + 1, P): 1 where the target is the likeliest token."""
    entropies: Floats
    """(L + 1, P), in nats."""


def logit_lens(inspector: Inspector, prompt: Prompt, *, top: int = 5, last: int | None = None) -> LogitLens:
    """Put the residual stream after the embeddings, and after each block, through the final layer norm and the head.

    top: K, how many tokens to name. last: look at so many positions at the end of the text only; None is all of it.
    The last layer's predictions are the model's own. Raises what `Inspector.run` does.
    """
    check_inspector(inspector)
    top = min(int(integer(1)("top", top) or 0), inspector.config.vocab_size)
    layers = inspector.config.n_layer
    run = inspector.run(prompt, keep=["h.0.resid_pre", "h.*.resid_post"])
    length = len(run.token_ids)
    count = length if last is None else min(int(integer(1)("last", last) or 0), length)
    positions = np.arange(length - count, length)
    stages = [run["h.0.resid_pre"], *(run[f"h.{layer}.resid_post"] for layer in range(layers))]

    likeliest = int(inspector.unembed(stages[-1][-1]).argmax())
    targets = np.array([*run.token_ids[1:], likeliest], np.int64)[positions]
    shape = layers + 1, count
    top_ids, top_probabilities = np.empty((*shape, top), np.int64), np.empty((*shape, top), np.float32)
    probabilities, ranks, entropies = (
        np.empty(shape, np.float32),
        np.empty(shape, np.int64),
        np.empty(shape, np.float32),
    )
    for stage, residual in enumerate(stages):
        for start in range(0, count, ROWS_AT_ONCE):
            rows = slice(start, min(start + ROWS_AT_ONCE, count))
            logs = log_probabilities(inspector.unembed(residual[positions[rows]]))  # (rows, V)
            target = np.take_along_axis(logs, targets[rows, None], axis=1)  # (rows, 1)
            top_ids[stage, rows] = [largest(row, top) for row in logs]
            top_probabilities[stage, rows] = np.exp(np.take_along_axis(logs, top_ids[stage, rows], axis=1))
            probabilities[stage, rows] = np.exp(target[:, 0])
            ranks[stage, rows] = 1 + (logs > target).sum(axis=1)
            entropies[stage, rows] = -(np.exp(logs) * logs).sum(axis=1)
    return LogitLens(
        token_ids=run.token_ids,
        tokens=run.tokens,
        layers=("embeddings", *(f"h.{layer}" for layer in range(layers))),
        positions=positions,
        top_ids=top_ids,
        top_probabilities=top_probabilities,
        target_ids=targets,
        target_probabilities=probabilities,
        target_ranks=ranks,
        entropies=entropies,
    )
