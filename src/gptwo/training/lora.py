"""LoRA: the model stays as it is, and each chosen matrix gets a small one beside it that learns.

    y = x W + b + (alpha / r) · dropout(x) A B,    A (in, r) random, B (r, out) zero at first

so the first step is the unchanged model's, and afterwards A B can be added to W: what is saved is an ordinary model.
Source: Hu et al. 2021, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from gptwo.errors import InvalidRequestError, nearest_name
from gptwo.model import GPT2, Conv1D

TARGETS = ("c_attn", "c_proj", "c_fc")
"""The matrices of a block; `c_proj` is the attention's and the MLP's."""
_HEAD = ("lm_head", "head", "wte")

Layer = TypeVar("Layer", bound=nn.Module)


class LoRAConv1D(Conv1D):
    """A Conv1D that is frozen, under its own names, and learns in `lora_a` (in, r) and `lora_b` (r, out)."""

    def __init__(
        self, base: Conv1D, rank: int, alpha: float, dropout: float, generator: torch.Generator | None
    ) -> None:
        nn.Module.__init__(self)  # Conv1D's own would make another weight
        inputs, outputs = base.weight.shape
        self.weight, self.bias = base.weight, base.bias
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        a = torch.empty(inputs, rank).normal_(0.0, 1.0 / math.sqrt(inputs), generator=generator)
        self.lora_a = nn.Parameter(a.to(base.weight))
        self.lora_b = nn.Parameter(base.weight.new_zeros(rank, outputs))
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        narrow = self.dropout(x) @ self.lora_a  # (..., r)
        added: Tensor = (self.scale * narrow) @ self.lora_b  # (..., out)
        return super().forward(x) + added

    @torch.no_grad()
    def merged(self) -> Conv1D:
        """An ordinary Conv1D that says the same. The weight is changed in place."""
        merged = Conv1D.__new__(Conv1D)
        nn.Module.__init__(merged)
        product = self.lora_a.float() @ self.lora_b.float()  # (in, out)
        self.weight.copy_(self.weight.float().add_(product, alpha=self.scale))
        merged.weight, merged.bias = self.weight, self.bias
        return merged.train(self.training)


def add_lora(
    model: GPT2,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Sequence[str] = TARGETS,
    *,
    generator: torch.Generator | None = None,
) -> None:
    """Freeze the model and put LoRA beside the matrices named in `targets`, in place.

    rank: r, how many columns A has. alpha: with rank, how much of A B is added. generator: draws A, on the CPU.

    Raises InvalidRequestError for a rank that is less than 1, a dropout that is no probability, a name that is none of
    TARGETS, for a model that has LoRA already, and for the head.
    """
    if rank < 1:
        raise InvalidRequestError(f"lora_rank is {rank}, expected 1 or more", "lora_rank")
    if not 0.0 <= dropout < 1.0:
        raise InvalidRequestError(f"lora_dropout is {dropout}, expected a probability below 1", "lora_dropout")
    _check_targets(targets, tied=model.config.tie_word_embeddings)
    if _layers_of(model, LoRAConv1D):
        raise InvalidRequestError("the model has LoRA already; merge it first")
    model.requires_grad_(False)
    for parent, name, layer in _layers_of(model, Conv1D):
        if name in targets:
            setattr(parent, name, LoRAConv1D(layer, rank, alpha, dropout, generator))


def merge_lora(model: GPT2) -> None:
    """Add what LoRA has learnt to the weights, in place: the names and shapes are again a checkpoint's.

    The embeddings and the head, tied or not, are not touched. All parameters can be trained again.
    """
    for parent, name, layer in _layers_of(model, LoRAConv1D):
        setattr(parent, name, layer.merged())
    model.requires_grad_(True)


def lora_state_dict(model: GPT2) -> dict[str, Tensor]:
    """Only what LoRA has learnt; `model.load_state_dict(state, strict=False)` takes it after `add_lora`."""
    return {name: tensor for name, tensor in model.state_dict().items() if name.rpartition(".")[2].startswith("lora_")}


def _check_targets(targets: Sequence[str], *, tied: bool) -> None:
    if not targets:
        raise InvalidRequestError(f"lora_targets names no matrix; known names: {', '.join(TARGETS)}", "lora_targets")
    for name in targets:
        if name in _HEAD:
            why = (
                "tied to the token embedding, which merging would corrupt" if tied else "trained in whole or not at all"
            )
            raise InvalidRequestError(
                f"lora_targets names {name!r}, but the head is {why}; choose from {', '.join(TARGETS)}", "lora_targets"
            )
        if name not in TARGETS:
            raise InvalidRequestError(f"lora_targets has no {name[:60]!r}{nearest_name(name, TARGETS)}", "lora_targets")


def _layers_of(model: GPT2, kind: type[Layer]) -> list[tuple[nn.Module, str, Layer]]:
    """Each layer of a kind, with the module that holds it and its name there."""
    return [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, kind)
    ]
