"""Lesson 1: softmax and attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gptwo.course import forward
from gptwo.course.judging import FunctionExercise, Mistake, Sizes
from gptwo.course.modules import ATTENTION_SHAPES, HEADS, WIDTH, ModuleExercise
from gptwo.course.roles import attention_weights


def softmax(
    scores: Tensor,
    *,
    axis: int | None = -1,
    divisor: int | None = None,
    peak: str = "row",
    normalise: bool = True,
    base: str = "e",
) -> Tensor:
    """Shares of each row of the last axis."""
    axes = tuple(range(scores.dim())) if axis is None else (axis,)
    if peak == "row":
        scores = scores - scores.amax(axes, keepdim=True)
    elif peak == "all":
        scores = scores - scores.max()
    powers = torch.exp(scores) if base == "e" else 2.0**scores
    if not normalise:
        return powers
    return powers / powers.sum(axes if divisor is None else divisor, keepdim=True)


SOFTMAX = FunctionExercise(
    "softmax(scores)",
    softmax,
    (
        (torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]]),),
        (torch.tensor([[0.0, 1.0, -torch.inf], [2.0, 2.0, 1.0]]),),
        (torch.tensor([[1000.0, 999.0], [-1000.0, 0.0], [3.0, 3.5]]),),
        (torch.linspace(-2, 2, 24).sin().view(2, 3, 4),),
    ),
    (
        Mistake(
            "e to the power of 1000 is infinite, and inf / inf is NaN: take the row's largest score off all of them "
            "first, which changes no share.",
            {"peak": "none"},
        ),
        Mistake(
            "The largest score of the whole tensor is taken off; a row far below it becomes 0 / 0. Take each row's "
            "own.",
            {"peak": "all"},
        ),
        Mistake("The shares are taken along the wrong axis: rows, dim=-1, must sum to 1, not columns.", {"axis": -2}),
        Mistake(
            "The shares are taken along the first axis: it is the last one, dim=-1, that must sum to 1.", {"axis": 0}
        ),
        Mistake(
            "Each power is divided by the sum of its column; divide by its row's: sum(-1, keepdim=True).",
            {"divisor": 0},
        ),
        Mistake("All of the tensor sums to 1; each row of it should.", {"axis": None}),
        Mistake("The powers of e are not divided by their sum, so a row does not sum to 1.", {"normalise": False}),
        Mistake("The powers are those of 2, not of e: use torch.exp.", {"base": "2"}),
    ),
)


def _exchanged(order: str) -> Mistake:
    names = {"q": "queries", "k": "keys", "v": "values"}
    return Mistake(
        "The order of queries, keys and values is wrong: what the first layer gives are queries, keys, values, in this "
        f"order, and yours takes them as {', '.join(names[letter] for letter in order)}.",
        {"order": order},
    )


MISTAKES = (
    Mistake(
        "The scale is missing: divide the scores by sqrt(D), the square root of a head's size, or they grow with D "
        "and the softmax is all but one-hot.",
        {"scale": "none"},
    ),
    Mistake(
        "The scale is that of the whole width: divide by sqrt(D), a head's size, not by sqrt(C).", {"scale": "width"}
    ),
    Mistake("The scale is 1 / D; it is 1 / sqrt(D).", {"scale": "square"}),
    Mistake("The scores are multiplied by sqrt(D); divide by it.", {"scale": "times"}),
    Mistake("The scale comes after the softmax; the scores before it must be divided by sqrt(D).", {"scale": "after"}),
    Mistake(
        "The mask is missing: every position sees the later ones. Set the scores of later positions to -inf before the "
        "softmax.",
        {"mask": "none"},
    ),
    Mistake(
        "The mask hides a position from itself too (NaN in the first row); it may see itself: tril(), not tril(-1).",
        {"mask": "strict"},
    ),
    Mistake("The mask lets a position see one position ahead: tril(), without a diagonal of 1.", {"mask": "one ahead"}),
    Mistake("The mask is the wrong way round: positions see the later ones, and not the earlier.", {"mask": "future"}),
    Mistake(
        "The mask sets scores to 0, and e to the power of 0 is 1, a share like any other: set them to -inf.",
        {"mask": "zeros"},
    ),
    Mistake(
        "The mask comes after the softmax, so that rows no longer sum to 1; mask the scores before it.",
        {"mask": "after"},
    ),
    Mistake(
        "The softmax runs over the wrong axis, the queries: for each query the shares of all keys must sum to 1, "
        "which is dim=-1 of scores (B, H, T, T).",
        {"axis": "queries"},
    ),
    Mistake("The softmax runs over the heads; it must run over the keys, dim=-1.", {"axis": "heads"}),
    *(_exchanged(order) for order in ("qvk", "kqv", "kvq", "vqk", "vkq")),
    Mistake(
        "The heads are split wrongly: view(B, H, T, D) mixes positions and heads up. Split the width, view(B, T, H, "
        "D), and then exchange the two axes: transpose(1, 2).",
        {"split": "no transpose"},
    ),
    Mistake(
        "The heads are split wrongly: a head is D numbers that lie side by side, view(B, T, H, D), not every H-th one.",
        {"split": "interleaved"},
    ),
    Mistake(
        "The heads are split wrongly: the first layer's output is first all of q, then k, then v, each (B, T, C); "
        "cut it in three first, and split the heads of each afterwards.",
        {"split": "per head"},
    ),
    Mistake("There is a single head as wide as the model: split q, k and v into heads.", {"split": "one"}),
    Mistake(
        "There is a single head as wide as the model: split q, k and v into heads.",
        {"split": "one", "scale": "true head"},
    ),
    Mistake(
        "The heads are put together wrongly: y is (B, H, T, D), so exchange heads and positions back, transpose(1, "
        "2), before it is reshaped to (B, T, C).",
        {"merge": "no transpose"},
    ),
    Mistake(
        "The last linear layer, c_proj, is not used: what the heads found goes through it at the end.",
        {"project": False},
    ),
    Mistake("The bias of the first layer is not added.", {"bias": False}),
    Mistake("The bias of the last layer is not added.", {"project_bias": False}),
    Mistake("The input is added to the output; that is the block's work, in the next lesson.", {"add_input": True}),
)

SIZES = Sizes({"B": 2, "T": 5, "C": WIDTH, "H": HEADS, "D": WIDTH // HEADS})


def attend(x: Tensor, weights: forward.Weights, past: forward.Past | None, **flags: Any) -> tuple[Tensor, forward.Past]:
    """The right answer, or what a mistake makes of it."""
    return forward.attention(x, weights, HEADS, past, **flags)


ATTENTION = ModuleExercise(
    call="Attention(width, heads)",
    arguments=(WIDTH, HEADS),
    inputs=lambda: (torch.randn(2, 5, WIDTH), torch.randn(1, 1, WIDTH)),
    read=lambda layers: attention_weights(layers, WIDTH, HEADS),
    shapes=ATTENTION_SHAPES,
    forward=attend,
    mistakes=MISTAKES,
    sizes=SIZES,
)

EXERCISES = {"softmax": SOFTMAX, "attention": ATTENTION}
