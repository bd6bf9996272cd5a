"""The optimizers of a run: AdamW for all, or Muon for the matrices of the blocks and AdamW for the rest."""

from __future__ import annotations

import torch

from gptwo.model import GPT2
from gptwo.training.config import TrainConfig
from gptwo.training.muon import Muon


def make_optimizers(model: GPT2, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of the parameters that are trained; each one's groups say in `rate` their share of the rate.

    AdamW decays matrices only: a bias or a layer norm's gain has nothing to gain from being small. With `muon` the
    matrices of the blocks are Muon's, those of q, k and v each by itself.

    Source: Loshchilov and Hutter 2019 (decoupled decay); Brown et al. 2020, appendix B (betas and clipping).
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = {name: parameter for name, parameter in named if parameter.dim() >= 2}
    vectors = [parameter for name, parameter in named if name not in matrices]
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        inner = {name: matrices.pop(name) for name in list(matrices) if name.startswith("h.")}
        of_three = [parameter for name, parameter in inner.items() if name.endswith("attn.c_attn.weight")]
        of_one = [parameter for name, parameter in inner.items() if not name.endswith("attn.c_attn.weight")]
        rate = 1.0 if config.muon_lr is None else config.muon_lr / config.lr
        muon_groups = [
            {"params": of_three, "parts": 3, "rate": rate},
            {"params": of_one, "parts": 1, "rate": rate},
        ]
        optimizers.append(
            Muon(muon_groups, config.lr * rate, momentum=config.muon_momentum, weight_decay=config.weight_decay)
        )
    groups = [
        {"params": list(matrices.values()), "weight_decay": config.weight_decay, "rate": 1.0},
        {"params": vectors, "weight_decay": 0.0, "rate": 1.0},
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]], config.lr, betas=(config.beta1, config.beta2), fused=True
    )
    return [*optimizers, adamw]


def set_learning_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    """Give each group its share of the rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
