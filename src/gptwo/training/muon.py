"""Muon: momentum, orthogonalised, for the matrices inside a network.

A gradient of a matrix is mostly a few directions: a handful of its singular values are far larger than the others, and
plain momentum, like Adam, moves the weights along those few. Muon moves along all of them alike. With the momentum
G = U S Vᵀ it steps by U Vᵀ, the orthogonal matrix that is nearest to G: the same directions, every singular value 1.

Nobody computes the decomposition for that. A polynomial p(X) = a X + b (X Xᵀ) X + c (X Xᵀ)² X has the same U and V as X
and the singular values a s + b s³ + c s⁵. Its coefficients are chosen such that a few applications bring any s between
0 and 1 near to 1: fast for small ones (a is large), at the price that they end up between about 0.7 and 1.2 and not at
1, which has been found to do no harm. That is a handful of matrix products: what graphics cards do best.

The update has as many entries as the weights and rank r = min(in, out), so that its root mean square is
1 / sqrt(max(in, out)). It is scaled to 0.2, which is what AdamW's updates have: one learning rate and one weight decay
then suit both.

For embeddings, the head, biases and gains, whose rows are no directions of one space, there is AdamW.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (the method and a, b, c); Liu et
al. 2025, "Muon is scalable for LLM training", section 2.2 (weight decay, and the scale).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
RMS = 0.2
"""The root mean square of an update whose learning rate is 1."""


def orthogonalize(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest orthogonal matrix, roughly: singular values between about 0.7 and 1.2 (see above).

    matrix: (..., in, out), each by itself. dtype: of the arithmetic and of the result; bfloat16 is enough.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = (matrix if wide else matrix.mT).to(dtype)  # (..., r, R): the small products are those of the short side
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value is above 1 now
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (..., r, r)
        x = a * x + (b * gram + c * gram @ gram) @ x
    made: Tensor = x if wide else x.mT
    return made


class Muon(torch.optim.Optimizer):
    """Muon for matrices. A group may say `parts`: so many matrices lie side by side in each of its, as q, k and v do.

    State of each matrix: `momentum_buffer`. With `torch.distributed` the matrices are shared out: each process
    orthogonalises its part and all get the same sum. Matrices that are sharded (DTensor) are gathered one for each
    process at a time.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        """params: matrices, or groups of them, as for any optimizer. momentum: of an average, with Nesterov's step.

        weight_decay: as AdamW's. dtype: of the arithmetic; None is bfloat16, and float32 on a CPU, where bfloat16 is
        fast on a few only.
        """
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": 1}
        super().__init__(params, defaults)
        self._dtype = dtype
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.dim() != 2 or matrix.shape[1] % group["parts"]:
                    raise ValueError(f"Muon is for matrices of {group['parts']} parts, not for {tuple(matrix.shape)}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients."""
        size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        work = [(matrix, group) for group in self.param_groups for matrix in group["params"] if matrix.grad is not None]
        for first in range(0, len(work), size):
            turn = work[first : first + size]  # one matrix for each process
            updates = [_whole(self._momentum(matrix, group)) for matrix, group in turn]
            mine = [self._direction(update, turn[i][1]) if i == rank else torch.zeros_like(update)
                    for i, update in enumerate(updates)]  # fmt: skip
            if size > 1:
                mine = _sum_of_all(mine)
            for (matrix, group), update in zip(turn, mine, strict=True):
                matrix.mul_(1.0 - group["lr"] * group["weight_decay"])
                matrix.add_(_shard_like(matrix, update), alpha=-group["lr"])

    def _momentum(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        """The average of the gradients, this one counted in twice as Nesterov does; its length does not matter."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        state["momentum_buffer"].lerp_(matrix.grad, 1.0 - group["momentum"])
        return matrix.grad.lerp(state["momentum_buffer"], group["momentum"])

    def _direction(self, update: Tensor, group: dict[str, Any]) -> Tensor:
        """(in, out) -> (in, out), each of the parts orthogonal and of root mean square RMS."""
        dtype = self._dtype or (torch.float32 if update.device.type == "cpu" else torch.bfloat16)
        parts = update.reshape(len(update), group["parts"], -1).transpose(0, 1)  # (parts, in, out of a part)
        scale = RMS * math.sqrt(max(parts.shape[1:]))
        return (scale * orthogonalize(parts, dtype)).transpose(0, 1).flatten(1).to(update.dtype)


def _sum_of_all(tensors: list[Tensor]) -> list[Tensor]:
    """The sums over all processes, in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _shard_like(matrix: Tensor, whole: Tensor) -> Tensor:
    """Of what all have whole, the shard of this process, if the matrix is sharded."""
    if not hasattr(matrix, "full_tensor"):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(matrix, DTensor)
    return distribute_tensor(whole, matrix.device_mesh, matrix.placements, src_data_rank=None)
