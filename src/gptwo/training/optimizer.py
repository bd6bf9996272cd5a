"""AdamW as GPT-2's successors use it, and the learning rate over the steps."""

from __future__ import annotations

import math

import torch
from torch import nn

from gptwo.training.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only: a bias or a layer norm's gain has nothing to gain from being small.

    Source: Loshchilov and Hutter 2019 (decoupled decay); Brown et al. 2020, appendix B (betas and clipping).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step `step` (from 0): a line up over `warmup_steps`, then half a cosine down to `final_lr`.

    Source: Loshchilov and Hutter 2017, equation 5, with one cycle.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.final_lr + 0.5 * (config.lr - config.final_lr) * (1.0 + math.cos(math.pi * min(1.0, share)))
