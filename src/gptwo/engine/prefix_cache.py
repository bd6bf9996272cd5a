"""Prompts that begin alike are computed once: full blocks of tokens that later requests can go on from.

A block is 64 tokens and all that is before them, since keys and values depend on that too. So a block is found by its
tokens and the number of the block before it, and that block by its own in turn. The table compares the tokens
themselves; two different texts are never taken for each other, whatever their hashes.

Each block is a sequence of the decoder that ends with it. The decoder shares the memory of what they have in common,
so that a block costs 64 positions.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from gptwo.decoder.protocol import Decoder

BLOCK = 64  # positions; what a decoder shares between sequences without a copy

Key = tuple[int, tuple[int, ...]]  # the number of the block before, or 0, and the block's tokens


@dataclass(frozen=True, eq=False)
class Block:
    """64 tokens that the decoder holds, behind others."""

    key: Key
    number: int
    """From 1; never used again."""
    handle: int
    """The decoder's sequence that ends with this block."""


class PrefixCache:
    """At most so many blocks; the one that was not used for longest goes first, and no block before those behind it."""

    def __init__(self, decoder: Decoder, most_blocks: int) -> None:
        """most_blocks: 0 holds none and finds none."""
        self._decoder, self._most_blocks = decoder, most_blocks
        # Oldest first. A block is always moved to the end after the blocks behind it, so the first has none behind it.
        self._blocks: OrderedDict[Key, Block] = OrderedDict()
        self._numbers = itertools.count(1)
        self._promised: set[Key] = set()

    def __len__(self) -> int:
        """Blocks that are held."""
        return len(self._blocks)

    def clear(self) -> None:
        """Close every sequence of the decoder that is held here."""
        while self._blocks:
            self._drop_oldest()

    def find(self, ids: Sequence[int]) -> list[Block]:
        """The blocks that `ids` begins with, first to last, but never all of `ids`: one token is left to compute."""
        found: list[Block] = []
        while (len(found) + 1) * BLOCK < len(ids):
            block = self._blocks.get(_next_key(found, ids))
            if block is None:
                break
            found.append(block)
        self._touch(found)
        return found

    def keep(self, handle: int, held: int, ids: Sequence[int], blocks: list[Block]) -> None:
        """Let later requests find the full blocks among the first `held` tokens of `ids`.

        handle: the decoder's sequence that holds them. blocks: those of them that are held here and share their memory
        with it, first to last; brought up to date.
        """
        dropped = next((i for i, block in enumerate(blocks) if self._blocks.get(block.key) is not block), len(blocks))
        del blocks[dropped:]
        self._touch(blocks)
        while (len(blocks) + 1) * BLOCK <= held:
            key = _next_key(blocks, ids)
            # What is behind a block of other memory would cost more than it counts for.
            if key in self._blocks or not self._make_room(blocks):
                break
            block = Block(key, next(self._numbers), self._decoder.fork(handle))
            self._blocks[key] = block
            blocks.append(block)
            self._decoder.truncate(block.handle, len(blocks) * BLOCK)
        self._touch(blocks)

    def begin_step(self) -> None:
        """Forget what was promised in the last step."""
        self._promised.clear()

    def promise(self, blocks: list[Block], ids: Sequence[int]) -> None:
        """Announce that the block of `ids` behind `blocks` is being computed, and will be held."""
        if self._most_blocks and (len(blocks) + 1) * BLOCK <= len(ids):
            self._promised.add(_next_key(blocks, ids))

    def is_promised(self, blocks: list[Block], ids: Sequence[int]) -> bool:
        """Whether another request computes, in this step, the block of `ids` behind `blocks`."""
        whole = (len(blocks) + 1) * BLOCK < len(ids)
        return whole and _next_key(blocks, ids) in self._promised

    def _make_room(self, blocks: list[Block]) -> bool:
        """Room for one more, unless only `blocks` are left to drop."""
        if len(self._blocks) < self._most_blocks:
            return True
        if len(self._blocks) == len(blocks):
            return False
        self._drop_oldest()
        return True

    def _drop_oldest(self) -> None:
        _, block = self._blocks.popitem(last=False)
        self._decoder.close(block.handle)

    def _touch(self, blocks: list[Block]) -> None:
        for block in reversed(blocks):
            self._blocks.move_to_end(block.key)


def _next_key(blocks: list[Block], ids: Sequence[int]) -> Key:
    start = len(blocks) * BLOCK
    return (blocks[-1].number if blocks else 0, tuple(ids[start : start + BLOCK]))
