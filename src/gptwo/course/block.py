"""Lesson 2: layer norm, GELU and the block."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gptwo.course import attention, forward
from gptwo.course.judging import FunctionExercise, Mistake, Sizes
from gptwo.course.modules import BLOCK_SHAPES, HEADS, WIDTH, ModuleExercise
from gptwo.course.roles import block_weights


def layer_norm(
    x: Tensor,
    gain: Tensor,
    shift: Tensor,
    *,
    axis: int | tuple[int, ...] = -1,
    centre: bool = True,
    moved: bool = True,
    unbiased: bool = False,
    root: bool = True,
    eps: str = "inside",
    scaled: bool = True,
    shifted: bool = True,
    plus_one: bool = False,
) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-5) * gain + shift, over the last axis."""
    mean = x.mean(axis, keepdim=True)
    variance = x.var(axis, keepdim=True, unbiased=unbiased) if centre else x.pow(2).mean(axis, keepdim=True)
    if root:
        divisor = (variance + 1e-5).sqrt() if eps == "inside" else variance.sqrt() + (1e-5 if eps == "outside" else 0)
    else:
        divisor = variance + 1e-5
    y = (x - mean if centre and moved else x) / divisor
    y = y * (gain + 1 if plus_one else gain) if scaled else y
    return y + shift if shifted else y


_ROWS = torch.tensor(
    [
        [[1.0, 2.0, 4.0, 5.0], [0.0, 10.0, -3.0, 1.0], [2.0, 2.0, 2.0, 2.0]],
        [[0.001, 0.002, 0.003, 0.006], [7.0, 7.0, 7.0, 8.0], [-1.0, 1.0, -1.0, 1.0]],
    ]
)
_GAIN, _SHIFT = torch.tensor([1.0, 0.5, 2.0, -1.0]), torch.tensor([0.0, 1.0, 0.25, 3.0])

LAYER_NORM = FunctionExercise(
    "layer_norm(x, gain, shift)",
    layer_norm,
    ((_ROWS, _GAIN, _SHIFT), (_ROWS[:, :2], _GAIN, _SHIFT)),
    (
        Mistake(
            "The variance divides by C - 1 (torch's default); layer norm divides by C: var(-1, unbiased=False).",
            {"unbiased": True},
        ),
        Mistake("The mean is not taken off (that is RMS norm): (x - mean) / sqrt(variance + eps).", {"centre": False}),
        Mistake("The mean is not taken off above the line: (x - mean) / sqrt(variance + eps).", {"moved": False}),
        Mistake("It divides by the variance; divide by its square root.", {"root": False}),
        Mistake("eps is added after the square root; it belongs inside: sqrt(variance + eps).", {"eps": "outside"}),
        Mistake("There is no eps: a row of equal numbers becomes 0 / 0. It is sqrt(variance + 1e-5).", {"eps": "none"}),
        Mistake("The gain is not used: multiply by it once the row is normalised.", {"scaled": False}),
        Mistake("The shift is not added at the end.", {"shifted": False}),
        Mistake("The gain has a 1 added to it; GPT-2's is used as it is.", {"plus_one": True}),
        Mistake(
            "Mean and variance are those of the whole tensor; each position has its own: dim=-1, keepdim=True.",
            {"axis": (0, 1, 2)},
        ),
        Mistake("Mean and variance run over the wrong axis, the positions; take the last one, dim=-1.", {"axis": -2}),
    ),
)


def gelu(
    x: Tensor,
    *,
    kind: str = "tanh",
    cubic: float = 0.044715,
    power: int = 3,
    inner: float = 2 / math.pi,
    half: float = 0.5,
    one: float = 1.0,
) -> Tensor:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3)))."""
    if kind != "tanh":
        return forward.ACTIVATIONS[kind](x)
    return half * x * (one + torch.tanh(math.sqrt(inner) * (x + cubic * x**power)))


GELU = FunctionExercise(
    "gelu(x)",
    gelu,
    ((torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]),), (torch.linspace(-4, 4, 30).view(2, 3, 5),)),
    (
        Mistake(
            "This is the exact GELU, by the error function; GPT-2 was trained with the tanh approximation, and differs "
            "from it in the fourth digit.",
            {"kind": "erf"},
        ),
        Mistake(
            "This is the sigmoid approximation, x * sigmoid(1.702 x); GPT-2 has the one with tanh.", {"kind": "sigmoid"}
        ),
        Mistake("This is SiLU, x * sigmoid(x); GPT-2 has GELU's tanh approximation.", {"kind": "silu"}),
        Mistake("This is ReLU; GELU is smooth, and a little below 0 for negative x.", {"kind": "relu"}),
        Mistake("This gives x back unchanged.", {"kind": "none"}),
        Mistake("x is squared where it should be cubed: x + 0.044715 * x**3.", {"power": 2}),
        Mistake("The constant is 0.044715, with a zero after the point.", {"cubic": 0.44715}),
        Mistake("The term with x**3 is missing: x + 0.044715 * x**3.", {"cubic": 0.0}),
        Mistake("sqrt(2 / pi) is missing before the sum in tanh.", {"inner": 1.0}),
        Mistake("tanh's factor is the square root of 2 / pi, not 2 / pi itself.", {"inner": (2 / math.pi) ** 2}),
        Mistake("The factor 0.5 is missing.", {"half": 1.0}),
        Mistake("The 1 in 1 + tanh(...) is missing.", {"one": 0.0}),
    ),
)

MISTAKES = (
    Mistake(
        "The layer norm comes after the addition, as in the first transformer; in GPT-2 it comes before attention and "
        "before the MLP: x + attention(ln_1(x)).",
        {"norm": "after"},
    ),
    Mistake(
        "The layer norm comes after attention and MLP; it comes before them: x + attention(ln_1(x)).",
        {"norm": "after inner"},
    ),
    Mistake("No layer norm is used: x + attention(ln_1(x)), then x + mlp(ln_2(x)).", {"norm": "none"}),
    Mistake("The layer norm before attention is not used: attention(ln_1(x)).", {"norm": "second only"}),
    Mistake("The layer norm before the MLP is not used: mlp(ln_2(x)).", {"norm": "first only"}),
    Mistake("The first layer norm is used twice; the MLP has one of its own.", {"norm": "first twice"}),
    Mistake(
        "The residuals are missing: what attention and MLP find is added to x, it does not replace it.",
        {"residual": "none"},
    ),
    Mistake("The residual around attention is missing: x = x + attention(ln_1(x)).", {"residual": "second only"}),
    Mistake("The residual around the MLP is missing: x = x + mlp(ln_2(x)).", {"residual": "first only"}),
    Mistake(
        "The residual adds to the normalised x; add to x as it came, before the layer norm.",
        {"residual": "of the norm"},
    ),
    Mistake(
        "The second residual starts again from the block's input, so attention's own result is lost from the sum.",
        {"layout": "input again"},
    ),
    Mistake("Attention and MLP stand side by side; the MLP must see what attention added.", {"layout": "side by side"}),
    Mistake("The MLP comes first; attention comes first.", {"layout": "mlp first"}),
    Mistake(
        "The MLP's activation is the exact GELU, by the error function; GPT-2 has the tanh approximation.",
        {"activation": "erf"},
    ),
    Mistake("The MLP's activation is ReLU; GPT-2 has GELU with tanh.", {"activation": "relu"}),
    Mistake(
        "The MLP's activation is the sigmoid approximation of GELU; GPT-2 has the one with tanh.",
        {"activation": "sigmoid"},
    ),
    Mistake("The MLP's activation is SiLU; GPT-2 has GELU with tanh.", {"activation": "silu"}),
    Mistake(
        "The MLP has no activation between its two layers, which then are no more than one.", {"activation": "none"}
    ),
    *(Mistake(f"In its attention: {one.says}", one.flags) for one in attention.MISTAKES),
)


def pass_on(
    x: Tensor, weights: forward.Weights, past: forward.Past | None, **flags: Any
) -> tuple[Tensor, forward.Past]:
    """The right answer, or what a mistake makes of it."""
    return forward.block(x, weights, HEADS, past, **flags)


BLOCK = ModuleExercise(
    call="Block(width, heads)",
    arguments=(WIDTH, HEADS),
    inputs=lambda: (torch.randn(2, 5, WIDTH), torch.randn(1, 1, WIDTH)),
    read=lambda layers: block_weights(layers, WIDTH, HEADS),
    shapes=BLOCK_SHAPES,
    forward=pass_on,
    mistakes=MISTAKES,
    sizes=Sizes({"B": 2, "T": 5, "C": WIDTH, "H": HEADS}),
)

EXERCISES = {"layer_norm": LAYER_NORM, "gelu": GELU, "block": BLOCK}
