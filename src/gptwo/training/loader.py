"""Batches of token windows, shuffled by seed and epoch, found by their number alone.

Which windows batch number k holds follows from the seed and k, so a run that is resumed needs no more than k.
B batch, T block size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gptwo.errors import DataError
from gptwo.training.shards import Tokens

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class BatchLoader:
    """Windows of T + 1 tokens: inputs are all but the last, targets all but the first.

    Each epoch cuts the tokens into windows that lie end to end, from an offset drawn anew, and shuffles them: each
    token is a target once an epoch (but for the ends), and windows begin elsewhere every time.
    """

    def __init__(self, tokens: Tokens, *, block_size: int, batch_size: int, seed: int) -> None:
        """Raises DataError if there are too few tokens for one window."""
        if len(tokens) < block_size + 1:
            raise DataError(f"the training data has {len(tokens)} tokens, fewer than block_size + 1 = {block_size + 1}")
        self.tokens, self.block_size, self.batch_size, self.seed = tokens, block_size, batch_size, seed
        spare = min(block_size, len(tokens) - block_size - 1)
        self._offsets = spare + 1
        self.windows_per_epoch = (len(tokens) - 1 - spare) // block_size
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def batch(self, number: int) -> Batch:
        """Batch `number` (from 0): inputs and targets, int64 (B, T) each."""
        first = number * self.batch_size
        starts = [self._start(window) for window in range(first, first + self.batch_size)]
        rows = np.stack([self.tokens[start : start + self.block_size + 1] for start in starts]).astype(np.int64)
        return rows[:, :-1], rows[:, 1:]

    def epochs(self, batches: int) -> float:
        """How many times the data has been gone through after that many batches."""
        return batches * self.batch_size / self.windows_per_epoch

    def _start(self, window: int) -> int:
        epoch, index = divmod(window, self.windows_per_epoch)
        if self._order[0] != epoch:
            generator = np.random.Generator(np.random.PCG64([self.seed & (2**64 - 1), epoch]))
            offset = generator.integers(self._offsets)
            order = generator.permutation(self.windows_per_epoch) * self.block_size + offset
            self._order = (epoch, order)
        return int(self._order[1][index])


def validation_windows(tokens: Tokens, block_size: int) -> list[Batch]:
    """Windows end to end, the last one shorter: each token but the first is a target exactly once. Shapes (1, T)."""
    rows = [tokens[start : start + block_size + 1].astype(np.int64) for start in range(0, len(tokens) - 1, block_size)]
    return [(row[None, :-1], row[None, 1:]) for row in rows]
