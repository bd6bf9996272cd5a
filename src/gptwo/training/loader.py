"""Batches of token windows, shuffled by seed and epoch, found by their number alone.

Which windows batch number k holds follows from the seed and k, so a run that is resumed needs no more than k, and
several processes share the work by taking different numbers.
Windows may run across the end of a text: `<|endoftext|>` stands between two texts and tells the model so.
Source: Brown et al. 2020, appendix B, for that.

B batch, T block size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gptwo.errors import DataError, plural
from gptwo.training.batch import IGNORED, Batch
from gptwo.training.token_data import TokenData
from gptwo.training.token_splitting import TokenSplitter


class BatchLoader:
    """Windows of T + 1 tokens: inputs are all but the last, targets all but the first.

    Each epoch cuts the tokens into windows that lie end to end, from an offset drawn anew, and shuffles them: each
    token is a target once an epoch (but for the ends), and windows begin elsewhere every time. What is held in memory
    is the order of one epoch: 8 bytes for each window.
    """

    def __init__(
        self,
        data: TokenData,
        *,
        block_size: int,
        batch_size: int,
        seed: int,
        documents: bool = False,
        splitter: TokenSplitter | None = None,
        split_share: Callable[[int], float] = lambda number: 0.0,
    ) -> None:
        """documents: say which document each token belongs to. splitter: splits tokens, of batch k a share of
        split_share(k); what is then beyond the end of a window is left out. Raises DataError for too few tokens for one
        window.
        """
        if len(data) < block_size + 1:
            raise DataError(
                f"{data.path}: has {len(data)} {plural(len(data), 'token')}, fewer than block_size + 1 = "
                f"{block_size + 1}; give more text, or a smaller block_size"
            )
        self.data, self.block_size, self.batch_size, self.seed = data, block_size, batch_size, seed
        self.documents, self.splitter, self.split_share = documents, splitter, split_share
        spare = min(block_size, len(data) - block_size - 1)
        self._offsets = spare + 1
        self.windows_per_epoch = (len(data) - 1 - spare) // block_size
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    def batch(self, number: int) -> Batch:
        """Batch `number`, from 0. Raises DataError for a broken shard."""
        first = number * self.batch_size
        windows = range(first, first + self.batch_size)
        share = self.split_share(number) if self.splitter is not None else 0.0
        rows = [self._training_row(window, share) for window in windows]
        return _batch(self.data, rows, documents=self.documents)

    def _training_row(self, window: int, share: float) -> _Row:
        row = _row(self.data, self._start(window), self.block_size + 1)
        if self.splitter is None or share == 0.0:
            return row
        generator = np.random.Generator(np.random.PCG64([self.seed & (2**64 - 1), 0, window]))
        ids, source = self.splitter.split(row.ids, share, generator)
        return _Row(ids[: self.block_size + 1], row.learned[source][: self.block_size + 1])

    def epochs(self, batches: int) -> float:
        """How many times the data has been gone through after that many batches."""
        return batches * self.batch_size / self.windows_per_epoch

    def _start(self, window: int) -> int:
        epoch, index = divmod(window, self.windows_per_epoch)
        if self._order[0] != epoch:
            generator = np.random.Generator(np.random.PCG64([self.seed & (2**64 - 1), epoch]))
            offset = generator.integers(self._offsets)
            order = generator.permutation(self.windows_per_epoch)
            order *= self.block_size
            order += offset
            self._order = (epoch, order)
        return int(self._order[1][index])


def validation_batches(
    data: TokenData, *, block_size: int, batch_size: int, most: int = 0, documents: bool = False
) -> Iterator[Batch]:
    """Windows end to end over all tokens, batch_size of them together, the last one shorter and on its own.

    Each token but the first is a target exactly once; fewer than two tokens give no batch. most: no more batches than
    these, of whole windows at even distances, always the same; 0 for all.
    Example: tokens 0 to 5, block_size 2, batch_size 2: inputs [[0, 1], [2, 3]], then [[4]].
    """
    taken, whole = validation_windows(data, block_size=block_size, batch_size=batch_size, most=most)
    for first in range(0, taken, batch_size):
        windows = (number * whole // taken for number in range(first, min(first + batch_size, taken)))
        rows = [_row(data, window * block_size, block_size + 1) for window in windows]
        yield _batch(data, rows, documents=documents)
    rest = len(data) - 1 - whole * block_size
    if rest > 0 and taken == whole:
        yield _batch(data, [_row(data, whole * block_size, rest + 1)], documents=documents)


def validation_windows(data: TokenData, *, block_size: int, batch_size: int, most: int) -> tuple[int, int]:
    """How many whole windows `validation_batches` takes, and how many there are."""
    whole = max(0, len(data) - 1) // block_size
    return min(most * batch_size, whole) if most else whole, whole


class _Row(NamedTuple):
    ids: npt.NDArray[np.int64]  # (T + 1,)
    learned: npt.NDArray[np.bool_]  # (T + 1,): which of them may be targets


def _row(data: TokenData, start: int, length: int) -> _Row:
    return _Row(data.window(start, length), data.learned(start, length))


def _batch(data: TokenData, rows: Sequence[_Row], *, documents: bool) -> Batch:
    ids = np.stack([row.ids for row in rows])  # (B, T + 1)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    if data.masked:
        targets = np.where(np.stack([row.learned[1:] for row in rows]), targets, IGNORED)
    return Batch(inputs, targets, document_ids(inputs, data.end_of_text_id) if documents else None)


def document_ids(inputs: npt.NDArray[np.int64], end_of_text_id: int | None) -> npt.NDArray[np.int32]:
    """Which document of its row each token belongs to, int32 (B, T), from 0.

    `<|endoftext|>` is the first token of the document after it: what stands behind it is predicted from it alone, as
    when a model writes without a prompt, and that a document ends is predicted from all of that document. So there is
    no target that would be predicted across two documents, and none is lost.
    Example: with the id 9, [[5, 9, 6, 7], [9, 5, 9, 6]] gives [[0, 1, 1, 1], [0, 0, 1, 1]].
    """
    if end_of_text_id is None:
        return np.zeros(inputs.shape, dtype=np.int32)
    ids: npt.NDArray[np.int32] = np.cumsum(inputs == end_of_text_id, axis=1, dtype=np.int32)
    return ids - ids[:, :1]
