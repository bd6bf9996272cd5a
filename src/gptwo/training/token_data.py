"""The tokens of training or of validation: one or several shards, seen as one sequence."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptwo.errors import DataError
from gptwo.training.shards import Shard, read_shard


@dataclass(frozen=True)
class TokenData:
    """A sequence of token ids on disk, memory mapped: what is not asked for is not read."""

    shards: tuple[Shard, ...]
    """At least one; all of one tokenizer."""
    end_of_text_id: int | None = None
    """The id that stands between two documents, if there is one."""
    _ends: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises DataError if the shards do not belong together."""
        first = self.shards[0]
        for shard in self.shards[1:]:
            same = ("tokenizer", "vocab_size", "masked")
            if any(getattr(shard.header, name) != getattr(first.header, name) for name in same):
                raise DataError(f"{shard.path}: was not made together with {first.path}; make the data again")
        object.__setattr__(self, "_ends", tuple(itertools.accumulate(map(len, self.shards))))

    @classmethod
    def open(cls, paths: Sequence[Path], *, end_of_text_id: int | None = None) -> TokenData:
        """Open shards as one sequence. Raises DataError, naming the file, for one that cannot be read."""
        return cls(tuple(map(read_shard, paths)), end_of_text_id)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def path(self) -> Path:
        """Of the first shard, for messages."""
        return self.shards[0].path

    @property
    def count(self) -> int:
        """Tokens in all shards."""
        return len(self)

    @property
    def characters(self) -> int | None:
        """Characters of the text they encode; None if nobody counted them."""
        if any(shard.header.count and not shard.header.characters for shard in self.shards):
            return None
        return sum(shard.header.characters for shard in self.shards)

    @property
    def vocab_size(self) -> int:
        """Every id is below it."""
        return self.shards[0].header.vocab_size

    @property
    def tokenizer(self) -> str:
        """The tokenizer's fingerprint."""
        return self.shards[0].header.tokenizer

    @property
    def masked(self) -> bool:
        """Whether there are tokens that are read but not learned."""
        return self.shards[0].header.masked

    @cached_property
    def sha256(self) -> str:
        """Of the tokens, in hex: that of the one shard, or of the hashes of several."""
        hashes = [shard.header.sha256 for shard in self.shards]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def window(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """`length` ids from position `start` on, fewer at the end, int64 (N,).

        Raises DataError, naming the file, for an id beyond the vocabulary.
        """
        ids: npt.NDArray[np.int64] = self._gather(start, length, Shard.window)
        return ids

    def learned(self, start: int, length: int) -> npt.NDArray[np.bool_]:
        """Which of the same tokens are to be learned, bool (N,)."""
        learned: npt.NDArray[np.bool_] = self._gather(start, length, Shard.learned)
        return learned

    def _gather(self, start: int, length: int, read: Callable[[Shard, int, int], Any]) -> Any:
        """What `read` gives of the shards from position `start` on, joined.

        Example: of shards with 3 and 5 tokens, 4 tokens from position 1 are 2 from the first and 2 from the second.
        """
        index = min(bisect.bisect_right(self._ends, start), len(self.shards) - 1)
        parts = []
        while True:
            begin = self._ends[index] - len(self.shards[index])
            part = read(self.shards[index], start - begin, length)
            parts.append(part)
            start, length, index = start + len(part), length - len(part), index + 1
            if length <= 0 or index == len(self.shards):
                return parts[0] if len(parts) == 1 else np.concatenate(parts)
