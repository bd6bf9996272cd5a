"""What one forward pass of training is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORED = -100  # a target that nothing is learned from; the number that PyTorch's cross-entropy passes over too


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows of tokens, B of them with T tokens each, and what is to be predicted from them."""

    inputs: npt.NDArray[np.int64]
    """Token ids (B, T)."""
    targets: npt.NDArray[np.int64]
    """The token after each input (B, T); IGNORED where nothing is to be learned, as in prompts."""
    documents: npt.NDArray[np.int32] | None = None
    """Which document of its row each input belongs to (B, T), from 0; None unless asked for."""

    @property
    def target_count(self) -> int:
        """The targets that are not IGNORED."""
        return int(np.count_nonzero(self.targets != IGNORED))
