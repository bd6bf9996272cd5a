"""Lesson 9: weights in 8 bits, and products of whole numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from gptwo.course.judging import FunctionExercise, Mistake


def quantize(
    weights: Tensor,
    block: int,
    *,
    top: float = 127.0,
    rounding: str = "nearest",
    scale_of: str = "block",
    signed: bool = False,
    inverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Weights (R, C) -> int8 (R, C) and scales (R, C / block), with weights ≈ q * scale."""
    rows, columns = weights.shape
    blocks = weights.view(rows, columns // block, block)
    largest = blocks.amax(-1) if signed else blocks.abs().amax(-1)  # (R, C / block)
    if scale_of == "row":
        largest = largest.amax(-1, keepdim=True).expand_as(largest)
    elif scale_of == "all":
        largest = largest.max().expand_as(largest)
    scales = largest / top
    divisor = torch.where(scales == 0, 1.0, scales)
    q = blocks / divisor[..., None]
    q = {"nearest": q.round(), "down": q.trunc(), "floor": q.floor()}[rounding]
    wrapped = q.to(torch.int64).to(torch.int8)  # 128 becomes -128
    return wrapped.view(rows, columns), 1 / divisor if inverse else scales


_M = torch.tensor([[0.5, -1.0, 0.25, 0.1, 3.0, -2.0, 0.7, 0.0], [0.0, 0.0, 0.0, 0.0, -0.02, 0.01, 0.004, 0.013]])
_N = torch.tensor([[1.0, 0.3, -0.9, 0.77], [-4.0, 0.2, 1.1, 2.6]])

QUANTIZE = FunctionExercise(
    "quantize(weights, block)",
    quantize,
    ((_M, 4), (_N, 2), (_N, 4)),
    (
        Mistake(
            "The scale is largest / 128: then the largest weight is 128, which int8 does not have, and it wraps "
            "round to -128. Divide by 127.",
            {"top": 128.0},
        ),
        Mistake(
            "The scale is largest / 255, so that the large weights do not fit into int8; divide by 127.", {"top": 255.0}
        ),
        Mistake(
            "The numbers are cut off toward 0; round to the nearest, which halves the error.", {"rounding": "down"}
        ),
        Mistake("The numbers are rounded down (floor); round to the nearest.", {"rounding": "floor"}),
        Mistake("A row has one scale for all of its blocks; each block has its own.", {"scale_of": "row"}),
        Mistake(
            "All weights have one scale; each block has its own, so that one large weight harms no others.",
            {"scale_of": "all"},
        ),
        Mistake(
            "The largest weight is taken with its sign; take the largest absolute value, or large negative ones "
            "overflow.",
            {"signed": True},
        ),
        Mistake("The scales are given as their inverses; weights are q * scale.", {"inverse": True}),
    ),
)


def int8_product(
    q: Tensor,
    scales: Tensor,
    x_q: Tensor,
    x_scales: Tensor,
    *,
    sum_in: str = "int32",
    scaled: str = "both",
    by_block: bool = True,
) -> Tensor:
    """q int8 (R, C), scales (R, K), x_q int8 (C,), x_scales (K,) -> float32 (R,): the product, block by block."""
    rows, blocks = scales.shape
    w, x = q.view(rows, blocks, -1), x_q.view(blocks, -1)
    dots = (w.to(torch.int64) * x.to(torch.int64)).sum(-1)  # (R, K)
    if sum_in == "int8 products":
        dots = (w * x).to(torch.int64).sum(-1)
    elif sum_in in ("int8", "int16"):
        dots = dots.to(getattr(torch, sum_in)).to(torch.int64)
    each = dots.to(torch.float32)
    if not by_block:
        return each.sum(-1) * scales.mean(-1) * x_scales.mean()
    if scaled in ("both", "weights"):
        each = each * scales
    if scaled in ("both", "inputs"):
        each = each * x_scales
    return each.sum(-1)


def _whole(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(-127, 128, shape, generator=draw).to(torch.int8)


_DRAW = torch.Generator().manual_seed(4)
INT8_PRODUCT = FunctionExercise(
    "int8_product(q, scales, x_q, x_scales)",
    int8_product,
    (
        (
            torch.full((2, 8), 100, dtype=torch.int8),
            torch.tensor([[0.01, 0.02], [0.5, 0.25]]),
            torch.full((8,), 120, dtype=torch.int8),
            torch.tensor([0.1, 0.3]),
        ),
        (_whole(_DRAW, 3, 6), torch.rand(3, 3, generator=_DRAW), _whole(_DRAW, 6), torch.rand(3, generator=_DRAW)),
    ),
    (
        Mistake(
            "The products overflow: int8 times int8 is int8 in torch, and 100 * 120 does not fit. Widen to int32 "
            "first.",
            {"sum_in": "int8 products"},
        ),
        Mistake("The sums overflow in int16; widen to int32 first.", {"sum_in": "int16"}),
        Mistake("The sums overflow in int8; widen to int32 first.", {"sum_in": "int8"}),
        Mistake("The scales of the inputs are left out.", {"scaled": "weights"}),
        Mistake("The scales of the weights are left out.", {"scaled": "inputs"}),
        Mistake("No scale is used: what comes out are whole numbers.", {"scaled": "none"}),
        Mistake("The blocks are added up before they are scaled; each has scales of its own.", {"by_block": False}),
    ),
)

EXERCISES = {"quantize": QUANTIZE, "int8_product": INT8_PRODUCT}
