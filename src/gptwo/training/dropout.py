"""Dropout that is not remembered: the backward pass draws the same numbers again, from the seed.

A mask costs a pass over memory that is as long as what it masks; 16 random bits are drawn faster than it is kept, and
several times as fast as PyTorch draws a probability. Source: Srivastava et al. 2014, section 4, scaled in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CASES = 2**16


@dataclass(frozen=True)
class Dropout:
    """One place in one pass where numbers are dropped, for tensors on the CPU."""

    probability: float
    """Rounded to a multiple of 2⁻¹⁶."""
    seed: int

    def __call__(self, x: Tensor) -> Tensor:
        """Some of x (...) zero and the others 1 / (1 - probability) as large: the same ones whenever it is called.

        Returns x itself where nothing is dropped.
        """
        dropped = round(self.probability * _CASES)
        return (x * self.kept(x.shape)).mul_(_CASES / (_CASES - dropped)) if dropped else x

    def kept(self, shape: torch.Size) -> Tensor:
        """bool (...), true for what is not dropped. The same for any number of threads."""
        generator = torch.Generator().manual_seed(self.seed)
        bits = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        number = bits.view(torch.int16)[: shape.numel()].view(shape)  # each from -2¹⁵ to 2¹⁵ - 1
        return number >= round(self.probability * _CASES) - _CASES // 2
