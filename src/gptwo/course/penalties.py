"""Lesson 5, continued: penalties for what was said already."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from gptwo.course.judging import FunctionExercise, Mistake

LOGITS = torch.tensor([1.0, 3.0, -0.5, 2.0, 0.2])


def repetition_penalty(
    logits: Tensor,
    ids: list[int],
    penalty: float,
    *,
    sign: str = "aware",
    counted: bool = False,
    how: str = "right",
    everywhere: bool = False,
) -> Tensor:
    """Divide positive logits of tokens in ids, multiply negative ones."""
    changed = logits.clone()
    counts = Counter(ids)
    for token in range(len(logits)) if everywhere else counts:
        factor = penalty ** (counts[token] if counted else 1)
        if how == "subtract":
            changed[token] = logits[token] - penalty
        elif how == "reverse":
            changed[token] = logits[token] * factor if logits[token] > 0 else logits[token] / factor
        elif sign == "aware":
            changed[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        else:
            changed[token] = logits[token] / factor if sign == "divide" else logits[token] * factor
    return changed


REPETITION = FunctionExercise(
    "repetition_penalty(logits, ids, penalty)",
    repetition_penalty,
    ((LOGITS, [1, 2, 1], 1.5), (LOGITS, [], 2.0), (LOGITS, [0, 4, 2, 2], 2.0), (LOGITS, [3], 1.0)),
    (
        Mistake(
            "The sign is forgotten: to divide a negative logit brings it nearer to 0, which makes the token likelier. "
            "Multiply the negative ones.",
            {"sign": "divide"},
        ),
        Mistake(
            "The sign is forgotten: to multiply a positive logit makes the token likelier. Divide the positive ones.",
            {"sign": "multiply"},
        ),
        Mistake(
            "It is the wrong way round: positive logits are divided, negative ones multiplied.", {"how": "reverse"}
        ),
        Mistake("A token that occurs twice is punished twice; here it only counts that it occurs.", {"counted": True}),
        Mistake("The penalty is subtracted; it is a factor here.", {"how": "subtract"}),
        Mistake("All tokens are punished; only those in ids should be.", {"everywhere": True}),
    ),
)


def frequency_penalty(
    logits: Tensor,
    ids: list[int],
    frequency: float,
    presence: float,
    *,
    sign: int = 1,
    counted: str = "right",
    exchanged: bool = False,
    absent: bool = False,
) -> Tensor:
    """logits - count * frequency - (count > 0) * presence."""
    counts = torch.bincount(torch.tensor(ids, dtype=torch.int64), minlength=len(logits)).to(logits.dtype)
    occurs = torch.ones_like(counts) if absent else (counts > 0).to(logits.dtype)
    if exchanged:
        frequency, presence = presence, frequency
    times = {"right": counts, "once": occurs, "share": counts / max(len(ids), 1)}.get(counted, counts)
    return logits - sign * (times * frequency + (counts if counted == "presence too" else occurs) * presence)


FREQUENCY = FunctionExercise(
    "frequency_penalty(logits, ids, frequency, presence)",
    frequency_penalty,
    (
        (LOGITS, [1, 2, 1, 1], 0.5, 0.2),
        (LOGITS, [0, 0], 0.0, 1.0),
        (LOGITS, [4, 3, 3], 1.0, 0.0),
        (LOGITS, [], 1.0, 1.0),
    ),
    (
        Mistake(
            "The sign is wrong: the penalties are added, so that what was said is said again. Subtract them.",
            {"sign": -1},
        ),
        Mistake(
            "The frequency penalty is taken off once; it counts as many times as the token occurs.", {"counted": "once"}
        ),
        Mistake("The presence penalty is taken off for each time; it counts once.", {"counted": "presence too"}),
        Mistake("The count is divided by the length of the text; take the count itself.", {"counted": "share"}),
        Mistake("frequency and presence are exchanged.", {"exchanged": True}),
        Mistake("The presence penalty hits tokens that do not occur at all.", {"absent": True}),
    ),
)
