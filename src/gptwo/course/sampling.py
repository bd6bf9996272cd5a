"""Lesson 5: from logits to a token, and beam search."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gptwo.course.judging import FunctionExercise, Mistake
from gptwo.course.penalties import FREQUENCY, LOGITS, REPETITION
from gptwo.course.toy import toy_model

SHARES = torch.tensor([0.1, 0.5, 0.05, 0.3, 0.05])
ZERO_IS = "0 is a logit like any other, and e to the power of 0 is 1: what is out must be -inf."


def temperature(logits: Tensor, t: float, *, how: str = "divide") -> Tensor:
    """logits / t."""
    if how == "probabilities":
        return (logits / t).softmax(-1)
    if how == "after":
        return logits.softmax(-1) / t
    return {"divide": logits / t, "multiply": logits * t, "power": logits ** (1 / t), "subtract": logits - t}[how]


TEMPERATURE = FunctionExercise(
    "temperature(logits, t)",
    temperature,
    ((LOGITS, 2.0), (LOGITS, 0.5), (LOGITS, 1.0)),
    (
        Mistake(
            "The logits are multiplied by the temperature; divide, so that a low one makes the choice sharper.",
            {"how": "multiply"},
        ),
        Mistake("It gives probabilities; give logits back, what comes after wants them.", {"how": "probabilities"}),
        Mistake("The probabilities are divided, not the logits: they no longer sum to 1.", {"how": "after"}),
        Mistake(
            "The logits are raised to a power; probabilities would be, but logits are simply divided.", {"how": "power"}
        ),
        Mistake(
            "The temperature is subtracted, which changes no probability at all; divide by it.", {"how": "subtract"}
        ),
    ),
)


def draw(shares: Tensor, u: float, *, how: str = "right") -> int:
    """The first token at which the shares so far exceed u."""
    if how == "likeliest":
        return int(shares.argmax())
    if how == "scaled":
        return int(u * len(shares))
    if how == "first above":
        return int((shares > u).to(torch.int64).argmax())
    so_far = shares.cumsum(0)
    index = int(torch.searchsorted(so_far, u, right=how != "reach"))
    return index + {"one later": 1, "one earlier": -1}.get(how, 0)


DRAW = FunctionExercise(
    "draw(shares, u)",
    draw,
    (
        (torch.tensor([0.125, 0.5, 0.125, 0.25]), 0.0),
        (torch.tensor([0.125, 0.5, 0.125, 0.25]), 0.5),
        (torch.tensor([0.125, 0.5, 0.125, 0.25]), 0.7),
        (torch.tensor([0.125, 0.5, 0.125, 0.25]), 0.99),
        (torch.tensor([0.0, 0.5, 0.5]), 0.0),
        (torch.tensor([0.25, 0.25, 0.5]), 0.25),
    ),
    (
        Mistake("It takes the likeliest token whatever u is; that is greedy.", {"how": "likeliest"}),
        Mistake("All tokens come equally often; each should as often as its share says.", {"how": "scaled"}),
        Mistake(
            "u is compared with single shares; compare it with their running sum, cumsum(0).", {"how": "first above"}
        ),
        Mistake(
            "Where the running sum just equals u the next token is meant (sum > u, not >=): else u = 0 draws a token "
            "of probability 0.",
            {"how": "reach"},
        ),
        Mistake("The token is off by one: it is the one after the right one.", {"how": "one later"}),
        Mistake("The token is off by one: it is the one before the right one.", {"how": "one earlier"}),
    ),
)


def keep(logits: Tensor, ids: Tensor, fill: float = -torch.inf) -> Tensor:
    """The logits of these ids, and `fill` elsewhere."""
    kept = torch.full_like(logits, fill)
    kept[ids] = logits[ids]
    return kept


def top_k(
    logits: Tensor,
    k: int,
    *,
    least: bool = False,
    fill: float = -torch.inf,
    more: int = 0,
    ties: str = "first",
    form: str = "logits",
) -> Tensor:
    """Keep the k largest logits; of equal ones the lower ids."""
    k = min(k + more, len(logits))
    order = logits.argsort(descending=not least, stable=True)
    if form == "sorted":
        return logits[order[:k]]
    if ties == "all":
        return torch.where(logits < logits[order[k - 1]], fill, logits)
    if ties == "none":
        return torch.where(logits <= logits[order[k]], fill, logits) if k < len(logits) else logits
    return keep(logits, order[:k], fill)


TOP_K = FunctionExercise(
    "top_k(logits, k)",
    top_k,
    ((LOGITS, 2), (LOGITS, 4), (LOGITS, 1), (LOGITS, 9), (torch.tensor([1.0, 2.0, 2.0, 3.0, 2.0]), 3)),
    (
        Mistake("It keeps the k smallest logits; keep the largest.", {"least": True}),
        Mistake(f"The tokens that are out get the logit 0. {ZERO_IS}", {"fill": 0.0}),
        Mistake("It keeps one token more than k.", {"more": 1}),
        Mistake("It keeps one token less than k.", {"more": -1}),
        Mistake(
            "Where several tokens tie for the last place it keeps all of them, more than k; the lower ids stay.",
            {"ties": "all"},
        ),
        Mistake(
            "Where several tokens tie for the last place it keeps none of them, fewer than k; the lower ids stay.",
            {"ties": "none"},
        ),
        Mistake(
            "It gives the k logits alone, sorted; give all V in their places, with -inf for those that are out.",
            {"form": "sorted"},
        ),
    ),
)


def top_p(
    logits: Tensor,
    p: float,
    *,
    crossing: str = "kept",
    least: bool = False,
    fill: float = -torch.inf,
    of: str = "probabilities",
    form: str = "logits",
) -> Tensor:
    """Keep the smallest set of the likeliest tokens whose probabilities reach p."""
    order = torch.arange(len(logits)) if of == "ids" else logits.argsort(descending=not least, stable=True)
    shares = logits.softmax(-1)[order] if of != "logits" else logits[order]
    before = shares.cumsum(0) - shares
    inside = shares.cumsum(0) <= p if crossing == "left out" else before < p
    if crossing == "left out, one kept":
        inside = shares.cumsum(0) <= p
        inside[0] = True
    elif crossing == "kept":
        inside[0] = True
    if of == "each":
        inside = shares >= p
    if form == "sorted":
        return torch.where(inside, logits[order], fill)
    return keep(logits, order[inside], fill)


TOP_P = FunctionExercise(
    "top_p(logits, p)",
    top_p,
    tuple((SHARES.log() + 0.5, p) for p in (0.7, 0.45, 0.85, 0.93, 0.99, 0.0)),
    (
        Mistake(
            "The token that crosses p is left out: with shares 0.5, 0.3, 0.2 and p = 0.7 the first two stay, since "
            "the first alone does not reach 0.7. Keep a token if the sum before it is below p.",
            {"crossing": "left out"},
        ),
        Mistake(
            "The token that crosses p is left out (all but the likeliest one). Keep a token if the sum before it is "
            "below p.",
            {"crossing": "left out, one kept"},
        ),
        Mistake("With p = 0 nothing is kept; the likeliest token always stays.", {"crossing": "strictly"}),
        Mistake("It begins with the unlikeliest tokens; sort by descending probability.", {"least": True}),
        Mistake(f"The tokens that are out get the logit 0. {ZERO_IS}", {"fill": 0.0}),
        Mistake("The running sum is that of the logits; take the softmax first.", {"of": "logits"}),
        Mistake("The tokens are taken in the order of their ids; sort them by probability first.", {"of": "ids"}),
        Mistake("Each token's own probability is compared with p; it is the running sum that counts.", {"of": "each"}),
        Mistake("The logits come out in sorted order; put each back in its token's place.", {"form": "sorted"}),
    ),
)


def beam_search(
    model: Callable[[Tensor], Tensor],
    prompt: list[int],
    width: int,
    count: int,
    *,
    score: str = "log",
    keep_each: bool = False,
    narrow: bool = False,
    forget: bool = False,
    with_prompt: bool = False,
    worst: bool = False,
) -> list[int]:
    """The best of `width` beams after `count` tokens, by the sum of log-probabilities."""
    beams: list[tuple[float, list[int]]] = [(0.0, list(prompt))]
    for _ in range(count):
        found = []
        for total, ids in beams:
            logits = model(torch.tensor([ids]))[0, -1].double()
            each = {"log": logits.log_softmax(-1), "logits": logits, "probabilities": logits.softmax(-1)}[score]
            steps = [((0.0 if forget else total) + float(each[i]), [*ids, i]) for i in range(len(each))]
            found += sorted(steps, key=lambda step: -step[0])[: 1 if keep_each and len(beams) == width else None]
        beams = sorted(found, key=lambda step: -step[0])[: 1 if narrow else width]
    best = beams[-1 if worst else 0][1]
    return best if with_prompt else best[len(prompt) :]


BEAM_SEARCH = FunctionExercise(
    "beam_search(model, prompt, width, count)",
    beam_search,
    (*((toy_model, [start], 3, 6) for start in range(8)), (toy_model, [1, 2], 1, 3), (toy_model, [9, 4], 4, 2)),
    (
        Mistake(
            "It finds what greedy finds: keep `width` beams after each step, not the best one alone.", {"narrow": True}
        ),
        Mistake(
            "Logits are summed; they are comparable within one distribution only. Sum log_softmax(logits).",
            {"score": "logits"},
        ),
        Mistake(
            "Probabilities are summed; a text's probability is their product, so sum their logarithms.",
            {"score": "probabilities"},
        ),
        Mistake(
            "Each beam keeps its own best continuation; all continuations of all beams compete, and one beam may give "
            "several.",
            {"keep_each": True},
        ),
        Mistake("The score is that of the last token alone; add it to the beam's score so far.", {"forget": True}),
        Mistake("It gives the prompt back as well; give the new tokens only.", {"with_prompt": True}),
        Mistake("It gives the last of the beams; give the best.", {"worst": True}),
    ),
)

EXERCISES = {
    "temperature": TEMPERATURE,
    "draw": DRAW,
    "top_k": TOP_K,
    "top_p": TOP_P,
    "repetition_penalty": REPETITION,
    "frequency_penalty": FREQUENCY,
    "beam_search": BEAM_SEARCH,
}
