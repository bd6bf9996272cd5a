"""Lesson 3: the whole model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gptwo.config import GPTConfig
from gptwo.course import block, forward
from gptwo.course.judging import Mistake, Sizes
from gptwo.course.modules import DEPTH, HEADS, MODEL_SHAPES, PLACES, VOCABULARY, WIDTH, ModuleExercise
from gptwo.course.roles import model_weights

CONFIG = GPTConfig(
    vocab_size=VOCABULARY,
    n_positions=PLACES,
    n_embd=WIDTH,
    n_layer=DEPTH,
    n_head=HEADS,
    bos_token_id=None,
    eos_token_id=None,
)
SIZES = Sizes({"B": 2, "T": 5, "C": WIDTH, "V": VOCABULARY})

MISTAKES = (
    Mistake(
        "The last layer norm, ln_f, is not used: it comes after the last block and before the head.",
        {"final_norm": "none"},
    ),
    Mistake("The positions are not added: x = wte[ids] + wpe[0, 1, 2, ...].", {"positions": "none"}),
    Mistake("The positions are off by one: they count from 0, and yours from 1.", {"positions": "from 1"}),
    Mistake("The positions run backwards; the first token has position 0.", {"positions": "backwards"}),
    Mistake("All tokens get position 0; the second has 1, the third 2: torch.arange(T).", {"positions": "all 0"}),
    Mistake(
        "The embeddings are multiplied by sqrt(C), as in the first transformer; GPT-2's are used as they are.",
        {"embedding_scale": WIDTH**0.5},
    ),
    Mistake("The blocks run from the last to the first.", {"blocks": "reversed"}),
    Mistake(
        "Only the first block runs; run them one after another, each on what the one before gave.",
        {"blocks": "first only"},
    ),
    Mistake("What the blocks give is thrown away: x = block(x), for each block.", {"blocks": "thrown away"}),
    Mistake(
        "The first block runs again in place of the later ones; each layer has weights of its own.",
        {"blocks": "first again"},
    ),
    Mistake("It gives hidden states (B, T, C); the head is missing: logits = x @ wte.T.", {"output": "hidden"}),
    Mistake("It gives probabilities; give the logits, without a softmax.", {"output": "probabilities"}),
    Mistake("It gives log-probabilities; give the logits as they are.", {"output": "log-probabilities"}),
    Mistake(
        "It gives the last position's logits only, expected those of all positions: (B, T, V).", {"output": "last"}
    ),
    Mistake(
        "It gives the last position's logits only, expected those of all positions: (B, T, V).", {"output": "last kept"}
    ),
    *(
        Mistake(one.says if one.says.startswith("In its attention") else f"In its blocks: {one.says}", one.flags)
        for one in block.MISTAKES
    ),
)


def logits_of(
    ids: Tensor, weights: forward.Weights, past: Sequence[forward.Past] | None, **flags: Any
) -> tuple[Tensor, list[forward.Past]]:
    """The right answer, or what a mistake makes of it."""
    return forward.model(ids, weights, HEADS, past, **flags)


MODEL = ModuleExercise(
    call="GPT2(config)",
    arguments=(CONFIG,),
    inputs=lambda: (torch.randint(VOCABULARY, (2, 5)), torch.randint(VOCABULARY, (1, 1))),
    read=lambda layers: model_weights(layers, WIDTH, HEADS, DEPTH, VOCABULARY, PLACES),
    shapes=MODEL_SHAPES,
    forward=logits_of,
    mistakes=MISTAKES,
    sizes=SIZES,
)

EXERCISES = {"model": MODEL}
