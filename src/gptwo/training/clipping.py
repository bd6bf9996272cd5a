"""Clipping of the gradient's norm, without a pass over the gradients when there is nothing to clip."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """The norm of all gradients together, a scalar; where it is above `limit` they are scaled down to it, in place.

    A limit of 0 does not clip. The same numbers as `torch.nn.utils.clip_grad_norm_`, which multiplies by 1.0 otherwise.
    Source: Pascanu et al. 2013, algorithm 1.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of shards
    if limit and not whole.item() + 1e-6 <= limit:  # NaN is not below anything
        torch.nn.utils.clip_grads_with_norm_(trained, limit, norm)
    return whole
