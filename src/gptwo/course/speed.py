"""Lesson 10: why it is fast."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptwo.course.judging import FunctionExercise, Mistake


def bytes_per_token(
    layers: int,
    width: int,
    vocabulary: int,
    bits: int,
    *,
    unit: int = 8,
    head: int = 1,
    per_block: int = 12,
    blocks: str = "all",
) -> float:
    """Bytes of matrices that are read to make one token."""
    return ((1 if blocks == "one" else layers) * per_block * width**2 + head * vocabulary * width) * bits / unit


BYTES = FunctionExercise(
    "bytes_per_token(layers, width, vocabulary, bits)",
    bytes_per_token,
    ((12, 768, 50257, 32), (5, 192, 1024, 16), (12, 768, 50257, 4)),
    (
        Mistake("These are bits; a byte has 8.", {"unit": 1}),
        Mistake("The head is left out: to get logits all of wte (V, C) is read.", {"head": 0}),
        Mistake("wte counts twice; as the head it is read whole, as the embedding a single row.", {"head": 2}),
        Mistake("The MLP is left out: a block has 4 C² in attention and 8 C² in the MLP.", {"per_block": 4}),
        Mistake("Attention is left out: a block has 4 C² in attention and 8 C² in the MLP.", {"per_block": 8}),
        Mistake(
            "The MLP's two matrices are (C, 4C) and (4C, C), together 8 C²; with attention's 4 C² a block has 12 C².",
            {"per_block": 6},
        ),
        Mistake("c_proj of attention is left out: it is C², beside 3 C² of c_attn.", {"per_block": 11}),
        Mistake("Only one block is counted.", {"blocks": "one"}),
    ),
)


def online_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    rescale: str = "both",
    peak: bool = True,
    divided: bool = True,
    scale: bool = True,
) -> Tensor:
    """q (D,), keys and values (S, D) -> (D,), looking at each position once. Source: Milakov and Gimelshein 2018."""
    largest, total, y = -math.inf, 0.0, torch.zeros_like(values[0])
    for key, value in zip(keys, values, strict=True):
        score = float(q @ key) / (math.sqrt(len(q)) if scale else 1.0)
        highest = max(largest, score) if peak else 0.0
        if peak and rescale != "none":
            smaller = math.exp(largest - highest)
            total *= 1.0 if rescale == "y only" else smaller
            y = y * (1.0 if rescale == "total only" else smaller)
        share = float(torch.tensor(score - highest).exp())
        total, y, largest = total + share, y + share * value, highest
    return y / total if divided else y


_DRAW = torch.Generator().manual_seed(5)
ONLINE = FunctionExercise(
    "online_attention(q, keys, values)",
    online_attention,
    (
        *(
            (torch.randn(4, generator=_DRAW), torch.randn(s, 4, generator=_DRAW), torch.randn(s, 4, generator=_DRAW))
            for s in (6, 9)
        ),
        (torch.tensor([300.0, 100.0]), torch.tensor([[1.0, 2.0], [-1.0, 0.0], [2.0, 1.0]]), torch.eye(3)[:, :2]),
    ),
    (
        Mistake(
            "When a new largest score comes, the sum and the output so far must both shrink by e ** (old - new).",
            {"rescale": "none"},
        ),
        Mistake("The sum so far is not rescaled when a new largest score comes.", {"rescale": "y only"}),
        Mistake("The output so far is not rescaled when a new largest score comes.", {"rescale": "total only"}),
        Mistake(
            "Large scores overflow: keep the largest so far, and take it off before the power of e.", {"peak": False}
        ),
        Mistake("The output is not divided by the sum at the end.", {"divided": False}),
        Mistake("The scores are not divided by sqrt(D).", {"scale": False}),
    ),
)


def accept(guesses: list[int], choices: list[int], *, how: str = "right") -> list[int]:
    """The tokens that a step of speculation gives: the guesses that came true, and the model's own next one."""
    agreed = 0
    while agreed < len(guesses) and guesses[agreed] == choices[agreed]:
        agreed += 1
    return {
        "right": choices[: agreed + 1],
        "guesses only": guesses[:agreed],
        "wrong guess": guesses[: agreed + 1] if agreed < len(guesses) else choices,
        "all that agree": [g for g, c in zip(guesses, choices, strict=False) if g == c] + choices[-1:],
        "all": guesses + choices[-1:],
        "choices": list(choices),
        "last choice": guesses[:agreed] + choices[-1:],
    }[how]


ACCEPT = FunctionExercise(
    "accept(guesses, choices)",
    accept,
    (([1, 2, 3], [1, 2, 9, 4]), ([1, 2, 3], [1, 2, 3, 4]), ([5, 2], [1, 2, 3]), ([], [7]), ([1, 2, 3], [1, 8, 3, 5])),
    (
        Mistake(
            "The model's own token is missing: where a guess fails, the step has told what is right there; and where "
            "none does, it gives one more.",
            {"how": "guesses only"},
        ),
        Mistake("The first wrong guess is kept; the model's own choice takes its place.", {"how": "wrong guess"}),
        Mistake(
            "Guesses after a wrong one are kept; the model has read the wrong one before them, so they tell nothing.",
            {"how": "all that agree"},
        ),
        Mistake("All guesses are kept, the wrong ones too.", {"how": "all"}),
        Mistake(
            "All of the model's choices are kept; those after a wrong guess were made after reading it.",
            {"how": "choices"},
        ),
        Mistake(
            "The token after the agreed ones is the model's last choice; it is its choice at the first wrong guess.",
            {"how": "last choice"},
        ),
    ),
)

EXERCISES = {"bytes_per_token": BYTES, "online_attention": ONLINE, "accept": ACCEPT}
