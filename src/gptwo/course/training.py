"""Lesson 8: the loss, AdamW and the learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptwo.course.judging import FunctionExercise, Mistake


def loss(
    logits: Tensor,
    ids: Tensor,
    *,
    shift: str = "next",
    reduce: str = "mean",
    of: str = "logits",
    base: float = math.e,
    sign: int = 1,
) -> Tensor:
    """The mean surprise -log p of each token given those before it."""
    pairs = {
        "next": (logits[:, :-1], ids[:, 1:]),
        "none": (logits, ids),
        "before": (logits[:, 1:], ids[:, :-1]),
        "around": (logits, ids.roll(-1, 1)),
        "two": (logits[:, :-2], ids[:, 2:]),
    }
    rows, targets = pairs[shift]
    if of == "probabilities":  # a softmax before cross_entropy's own
        rows = rows.softmax(-1)
    logs = rows.log_softmax(-1)
    surprise = -logs.gather(-1, targets[..., None])[..., 0]  # (B, T - 1)
    if reduce == "log of mean":
        return -(-surprise).exp().mean().log()
    if reduce == "probability":
        return (-surprise).exp().mean()
    total = {"mean": surprise.mean(), "sum": surprise.sum(), "per text": surprise.sum() / len(ids)}[reduce]
    return sign * total / math.log(base)


_DRAW = torch.Generator().manual_seed(3)
LOSS = FunctionExercise(
    "loss(logits, ids)",
    loss,
    tuple(
        (torch.randn(b, t, 7, generator=_DRAW) * 2, torch.randint(7, (b, t), generator=_DRAW))
        for b, t in ((2, 5), (1, 3))
    ),
    (
        Mistake(
            "The targets are not shifted: the logits at position t are about token t + 1, so compare logits[:, :-1] "
            "with ids[:, 1:].",
            {"shift": "none"},
        ),
        Mistake(
            "The targets are shifted the wrong way, so that each position is asked for the token before it: compare "
            "logits[:, :-1] with ids[:, 1:].",
            {"shift": "before"},
        ),
        Mistake(
            "The last position is asked for the first token (roll); it has no target: leave it out.",
            {"shift": "around"},
        ),
        Mistake("The targets are shifted twice; logits at t are about token t + 1.", {"shift": "two"}),
        Mistake("The losses are summed; take their mean, which does not depend on the length.", {"reduce": "sum"}),
        Mistake("The sum is divided by the number of texts; divide by the number of targets.", {"reduce": "per text"}),
        Mistake("The softmax is taken twice: cross_entropy takes logits, not probabilities.", {"of": "probabilities"}),
        Mistake(
            "The logarithm is that of the mean probability; take the mean of the logarithms.", {"reduce": "log of mean"}
        ),
        Mistake("This is the mean probability; the loss is the mean of -log p.", {"reduce": "probability"}),
        Mistake("The logarithm is to the base 2 (bits); the loss is in nats, to the base e.", {"base": 2.0}),
        Mistake("The sign is wrong: the loss is -log p, which is not negative.", {"sign": -1}),
    ),
)


def adamw(
    weight: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    step: int,
    lr: float,
    decay: float,
    *,
    correction: str = "both",
    decayed: str = "decoupled",
    eps: str = "outside",
    sign: int = 1,
    moments: str = "both",
    square: bool = True,
    betas: tuple[float, float] = (0.9, 0.95),
    root: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step; step counts from 1. Source: Loshchilov and Hutter 2019, algorithm 2."""
    first, second = betas
    if decayed == "in the gradient":
        gradient = gradient + decay * weight
    old_m, old_v = m, v
    m = first * m + (1 - first) * gradient
    v = second * v + (1 - second) * (gradient**2 if square else gradient)
    n = step - 1 if correction == "step before" else step
    m_hat = m / (1 - first**n) if correction in ("both", "first", "step before") and n else m
    v_hat = v / (1 - second**n) if correction in ("both", "second", "step before") and n else v
    if moments == "exchanged":
        m_hat = gradient
    small = 1e-8
    divisor = (v_hat + small).sqrt() if eps == "inside" else v_hat.sqrt() + (small if eps == "outside" else 0.0)
    if not root:
        divisor = v_hat + small
    shrunk = {"decoupled": weight * (1 - lr * decay), "without rate": weight * (1 - decay), "none": weight}
    new = shrunk.get(decayed, weight) - sign * lr * m_hat / divisor
    return (new, old_m, old_v) if moments == "not kept" else (new, m, v)


_W = torch.tensor([1.0, -2.0, 0.5])
_G = torch.tensor([0.1, -0.4, 1e-7])
_ZERO = torch.zeros(3)
ADAMW = FunctionExercise(
    "adamw(weight, gradient, m, v, step, lr, decay)",
    adamw,
    (
        (_W, _G, _ZERO, _ZERO, 1, 0.1, 0.1),
        (_W, _G, torch.tensor([0.2, 0.1, 0.0]), torch.tensor([0.04, 0.5, 1e-14]), 3, 0.01, 0.5),
        (_W, torch.zeros(3), torch.tensor([0.2, 0.1, 0.3]), torch.tensor([0.04, 0.5, 0.1]), 2, 0.1, 0.0),
    ),
    (
        Mistake(
            "The bias correction is missing: m and v begin at 0, so divide them by 1 - beta**step.",
            {"correction": "none"},
        ),
        Mistake("v is not corrected: divide it by 1 - beta2**step.", {"correction": "first"}),
        Mistake("m is not corrected: divide it by 1 - beta1**step.", {"correction": "second"}),
        Mistake(
            "The correction is a step late; step counts from 1 here, so use it as it is.", {"correction": "step before"}
        ),
        Mistake(
            "The decay is added to the gradient, as in Adam with L2; the W in AdamW says that the weight is shrunk by "
            "itself: weight * (1 - lr * decay).",
            {"decayed": "in the gradient"},
        ),
        Mistake("The decay lacks the learning rate: weight * (1 - lr * decay).", {"decayed": "without rate"}),
        Mistake("There is no weight decay: weight * (1 - lr * decay).", {"decayed": "none"}),
        Mistake("eps is inside of the square root; it is added after: sqrt(v) + eps.", {"eps": "inside"}),
        Mistake("The sign is wrong: the step goes against the gradient.", {"sign": -1}),
        Mistake("The step is divided by v; divide by its square root.", {"root": False}),
        Mistake("v keeps the gradient itself; it keeps the mean of its square.", {"square": False}),
        Mistake("The step uses the gradient; it uses m, the mean of the last ones.", {"moments": "exchanged"}),
        Mistake("The old m and v are given back; the next step needs the new ones.", {"moments": "not kept"}),
        Mistake("beta2 is 0.999, Adam's default; here it is 0.95, as GPT-3's.", {"betas": (0.9, 0.999)}),
    ),
)


def learning_rate(
    step: int,
    warmup: int,
    steps: int,
    peak: float,
    *,
    first: int = 1,
    shape: str = "cosine",
    floor: float = 0.1,
    since: str = "warm-up",
    half: bool = True,
) -> float:
    """A line up to `peak`, then half a cosine down to a tenth of it."""
    if step < warmup and shape != "no warm-up":
        return peak * (step + first) / warmup
    low = peak * floor
    begin = warmup if since == "warm-up" else 0
    share = (step - begin) / (steps - begin)
    if shape == "constant":
        return peak
    if shape == "line":
        return peak - (peak - low) * share
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * share * (1 if half else 2)))


LEARNING_RATE = FunctionExercise(
    "learning_rate(step, warmup, steps, peak)",
    learning_rate,
    tuple((step, 10, 100, 0.002) for step in (0, 4, 9, 10, 30, 55, 99)),
    (
        Mistake(
            "The warm-up is off by one: step 0 has the rate 0 and learns nothing; it is peak * (step + 1) / warmup.",
            {"first": 0},
        ),
        Mistake(
            "There is no warm-up: for the first steps the rate is peak * (step + 1) / warmup.", {"shape": "no warm-up"}
        ),
        Mistake("After the warm-up the rate stays; let it fall along half a cosine.", {"shape": "constant"}),
        Mistake("After the warm-up the rate falls along a line; make it half a cosine.", {"shape": "line"}),
        Mistake("The rate ends at 0; it ends at a tenth of the peak.", {"floor": 0.0}),
        Mistake(
            "The cosine counts from step 0, so that the rate jumps at the end of the warm-up; count from there.",
            {"since": "start"},
        ),
        Mistake(
            "The cosine goes through a whole turn, down and up again; half a turn, to pi, is enough.", {"half": False}
        ),
    ),
)

EXERCISES = {"loss": LOSS, "adamw": ADAMW, "learning_rate": LEARNING_RATE}
