"""A model of a few lines, for exercises that take any model: what it says depends on every token it has read."""

from __future__ import annotations

import torch
from torch import Tensor

VOCABULARY = 11


def toy_model(ids: Tensor) -> Tensor:
    """Ids (1, T) -> logits (1, T, V); ValueError for anything else."""
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.dtype != torch.int64:
        raise ValueError("the model takes token ids as an int64 tensor (B, T)")
    if ids.shape[1] == 0 or not bool(((ids >= 0) & (ids < VOCABULARY)).all()):
        raise ValueError(f"the model takes ids from 0 to {VOCABULARY - 1}, one at least")
    places = torch.arange(1, ids.shape[1] + 1)
    read = ((ids + 1) * places * places).cumsum(1)  # (1, T), different for a different order too
    return 2.5 * torch.sin(read[:, :, None] * 1.7 + torch.arange(VOCABULARY) * read[:, :, None] * 0.37)
