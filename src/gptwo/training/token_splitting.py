"""Tokens split at random into smaller ones: a model that has a small text only sees it spelled anew each time.

A tokenizer cuts a text in one way, and a model that reads the same text twenty times learns that one sequence by heart.
With each token split now and then into two of the vocabulary that spell the same bytes (and those again), no two
epochs show the same sequence, and the model learns what tokens are spelled of.
Source: the idea is that of Kudo 2018 (subword regularization) and Provilkov et al. 2020 (BPE-dropout), in the form of
Sims et al. 2025 (StochasTok), which splits tokens and needs no second encoding.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


class TokenSplitter:
    """The ways in which each token of a vocabulary can be spelled by two others."""

    def __init__(self, tokens: Sequence[bytes], whole: Collection[int] = ()) -> None:
        """tokens: the bytes of each id. whole: ids that are never split, nor made by splitting: special tokens."""
        ids = {token: token_id for token_id, token in enumerate(tokens) if token_id not in whole}
        pairs: list[tuple[int, int]] = []
        first = [0]
        for token_id, token in enumerate(tokens):
            if token_id not in whole:
                halves = ((ids.get(token[:cut]), ids.get(token[cut:])) for cut in range(1, len(token)))
                pairs += [(left, right) for left, right in halves if left is not None and right is not None]
            first.append(len(pairs))
        self._first: Ids = np.array(first[:-1], dtype=np.int64)
        self.ways: Ids = np.array(first[1:], dtype=np.int64) - self._first
        """In how many ways each token can be split in two, int64 (V,)."""
        self._pairs: Ids = np.array(pairs, dtype=np.int64).reshape(-1, 2)

    def split(self, ids: Ids, share: float, generator: np.random.Generator) -> tuple[Ids, Ids]:
        """The same text in more tokens: each that can be split is, with probability `share`, and so are its parts.

        ids: int64 (N,). Gives ids int64 (M,), M >= N, and for each the index of the token that it is a part of.
        All ways to split a token are equally probable.
        """
        source: Ids = np.arange(len(ids))
        fresh = np.ones(len(ids), dtype=np.bool_)
        while True:
            ways = self.ways[ids]
            chosen = fresh & (ways > 0) & (generator.random(len(ids)) < share)
            if not chosen.any():
                return ids, source
            way = self._first[ids[chosen]] + generator.integers(ways[chosen])
            repeats = 1 + chosen
            left = (np.cumsum(repeats) - repeats)[chosen]
            ids, source, fresh = np.repeat(ids, repeats), np.repeat(source, repeats), np.repeat(chosen, repeats)
            ids[left], ids[left + 1] = self._pairs[way, 0], self._pairs[way, 1]
