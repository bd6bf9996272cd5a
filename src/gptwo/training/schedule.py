"""What changes over the steps: the learning rate, and what falls with it."""

from __future__ import annotations

import math

from gptwo.training.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step `step` (from 0): a line up over `warmup` steps to `lr`, and then what `schedule` names.

    cosine: half a cosine down to `final_lr`; Loshchilov and Hutter 2017, equation 5, with one cycle.
    linear: a line down to `final_lr`.
    wsd (warm-up, stable, decay): `lr`, and over the last `decay_fraction` of all steps a line down to `final_lr`; Hu et
    al. 2024 (MiniCPM), section 4. Until the decay begins, nothing hangs on how many steps there will be.
    constant: `lr`.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    first = config.warmup
    if config.schedule == "wsd":
        first = max(first, config.steps - round(config.decay_fraction * config.steps))
    share = min(1.0, max(0, step - first) / max(1, config.steps - first))
    left = 0.5 * (1.0 + math.cos(math.pi * share)) if config.schedule == "cosine" else 1.0 - share
    return config.final_lr + (config.lr - config.final_lr) * left


def split_share(step: int, config: TrainConfig) -> float:
    """The share of tokens that are split in step `step` (from 0): `split_tokens`, falling as the learning rate does.

    At the end no token is split, so that the model learns the text as the tokenizer cuts it, which is how it will be
    read; with `constant` the share stays.
    """
    if config.schedule == "constant" or step < config.warmup or config.lr == config.final_lr:
        return config.split_tokens
    return config.split_tokens * (learning_rate(step, config) - config.final_lr) / (config.lr - config.final_lr)


def same_rates(one: TrainConfig, other: TrainConfig, steps: int) -> bool:
    """Whether the first `steps` steps of two runs have the same learning rates."""
    return all(learning_rate(step, one) == learning_rate(step, other) for step in range(steps))
