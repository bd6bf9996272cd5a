"""Batches of token windows, shuffled by seed and epoch, found by their number alone.

Which windows batch number k holds follows from the seed and k, so a run that is resumed needs no more than k.
Windows may run across the end of a text: `<|endoftext|>` stands between two texts and tells the model so.
Source: Brown et al. 2020, appendix B, for that.

B batch, T block size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gptwo.errors import DataError
from gptwo.training.shards import Shard

Batch = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class BatchLoader:
    """Windows of T + 1 tokens: inputs are all but the last, targets all but the first.

    Each epoch cuts the tokens into windows that lie end to end, from an offset drawn anew, and shuffles them: each
    token is a target once an epoch (but for the ends), and windows begin elsewhere every time.
    """

    def __init__(self, shard: Shard, *, block_size: int, batch_size: int, seed: int) -> None:
        """Raises DataError if there are too few tokens for one window."""
        if len(shard) < block_size + 1:
            raise DataError(
                f"{shard.path}: has {len(shard)} tokens, fewer than block_size + 1 = {block_size + 1}; "
                "give more text, or a smaller block_size"
            )
        self.shard, self.block_size, self.batch_size, self.seed = shard, block_size, batch_size, seed
        spare = min(block_size, len(shard) - block_size - 1)
        self._offsets = spare + 1
        self.windows_per_epoch = (len(shard) - 1 - spare) // block_size
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def batch(self, number: int) -> Batch:
        """Batch `number` (from 0): inputs and targets, int64 (B, T) each. Raises DataError for a broken shard."""
        first = number * self.batch_size
        starts = [self._start(window) for window in range(first, first + self.batch_size)]
        rows = np.stack([self.shard.window(start, self.block_size + 1) for start in starts])  # (B, T + 1)
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


def validation_batches(shard: Shard, *, block_size: int, batch_size: int) -> Iterator[Batch]:
    """Windows end to end over the whole shard, batch_size of them together, the last one shorter and on its own.

    Each token but the first is a target exactly once; fewer than two tokens give no batch. int64 (B, T) each.
    Example: tokens 0 to 5, block_size 2, batch_size 2: inputs [[0, 1], [2, 3]], then [[4]].
    """
    whole = max(0, len(shard) - 1) // block_size
    for first in range(0, whole, batch_size):
        windows = range(first, min(first + batch_size, whole))
        rows = np.stack([shard.window(window * block_size, block_size + 1) for window in windows])  # (B, T + 1)
        yield rows[:, :-1], rows[:, 1:]
    rest = shard.window(whole * block_size, block_size + 1)[None]  # (1, T + 1), T < block_size
    if rest.shape[1] > 1:
        yield rest[:, :-1], rest[:, 1:]
