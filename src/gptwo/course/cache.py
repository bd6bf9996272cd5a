"""Lesson 6: the cache of keys and values."""

from __future__ import annotations

import torch

from gptwo.course import attention, model
from gptwo.course.judging import Mistake, Sizes
from gptwo.course.modules import (
    ATTENTION_SHAPES,
    DEPTH,
    HEADS,
    MODEL_SHAPES,
    PLACES,
    VOCABULARY,
    WIDTH,
    ModuleExercise,
)
from gptwo.course.roles import attention_weights, model_weights

CUTS = (3, 1, 2, 1)  # a prompt, a token, two at once, a token

MISTAKES = (
    Mistake(
        "The past is not used: each call sees its own tokens only. Join the new keys and values to the old ones.",
        {"cache": "ignored"},
    ),
    Mistake(
        "The cache is not appended to: the past that a call gives back holds its own keys and values only, so the "
        "call after the next has forgotten the beginning. Give back all of them, old and new.",
        {"cache": "newest only"},
    ),
    Mistake(
        "The cache stays that of the first call: give back the old keys and values with the new ones joined on.",
        {"cache": "first only"},
    ),
    Mistake(
        "The new keys and values are put in front of the old ones; time runs forward: cat((old, new), dim=2).",
        {"cache": "in front"},
    ),
    Mistake(
        "The mask starts at the first position again: with S - T positions in the past, new position i sees S - T + "
        "i + 1 of them, so it is torch.ones(T, S).tril(S - T).",
        {"mask": "from the first"},
    ),
    Mistake(
        "With a past there is no mask any more: two new tokens at once, and the first of them sees the second.",
        {"mask": "prompt only"},
    ),
)

CACHED_ATTENTION = ModuleExercise(
    call="CachedAttention(width, heads)",
    arguments=(WIDTH, HEADS),
    inputs=lambda: (torch.randn(2, sum(CUTS), WIDTH),),
    read=lambda layers: attention_weights(layers, WIDTH, HEADS),
    shapes=ATTENTION_SHAPES,
    forward=attention.attend,
    mistakes=(*MISTAKES, *attention.MISTAKES),
    sizes=Sizes({"B": 2, "C": WIDTH}),
    cuts=CUTS,
)

CACHED_MODEL = ModuleExercise(
    call="CachedGPT2(config)",
    arguments=(model.CONFIG,),
    inputs=lambda: (torch.randint(VOCABULARY, (2, sum(CUTS))),),
    read=lambda layers: model_weights(layers, WIDTH, HEADS, DEPTH, VOCABULARY, PLACES),
    shapes=MODEL_SHAPES,
    forward=model.logits_of,
    mistakes=(
        Mistake(
            "The positions start from 0 in every call: with S positions in the past, the new tokens are at S, S + 1, "
            "...",
            {"positions": "restart"},
        ),
        Mistake(
            "With a past the positions are off by one: the first new token is at S, the length of the past.",
            {"positions": "late"},
        ),
        Mistake("All layers use the first layer's past; each has its own.", {"layer_cache": "first"}),
        *MISTAKES,
        *model.MISTAKES,
    ),
    sizes=Sizes({"B": 2, "C": WIDTH, "V": VOCABULARY}),
    cuts=CUTS,
)

EXERCISES = {"cached_attention": CACHED_ATTENTION, "cached_model": CACHED_MODEL}
