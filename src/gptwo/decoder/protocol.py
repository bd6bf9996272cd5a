"""What an engine needs of a model.

One primitive carries everything: a ragged batch of tokens. Prefill is many tokens of one sequence, decoding is one
token of each of many, verifying a draft is a few tokens of one, and scoring asks for every row.

N tokens in the batch, M rows whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from gptwo.config import GPTConfig

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Decoder(Protocol):
    """A GPT-2 that remembers the keys and values of the sequences that are open.

    Every method raises DecoderError for a sequence that is not open. The logits of a sequence never depend on what
    else is in the batch.

    A decoder may have an attribute `exact`. If it is true, the logits of a token are the same bits however the tokens
    before it came to be held: at once, in parts, one by one, through `fork` and `truncate`, in any mixture. Only then
    does the engine cut prompts into chunks, let requests share what they begin with, and check drafts.
    It may have an attribute `cache_blocks`: the blocks of 64 positions that open sequences hold, for those who watch.
    """

    config: GPTConfig

    def open(self) -> int:
        """Start an empty sequence and return its number."""

    def close(self, sequence: int) -> None:
        """Forget a sequence and free its memory."""

    def fork(self, sequence: int) -> int:
        """Start a sequence that continues from all the tokens of `sequence`, whose memory it shares."""

    def truncate(self, sequence: int, length: int) -> None:
        """Forget the tokens of `sequence` from position `length` on; 0 <= length <= its length."""

    def length(self, sequence: int) -> int:
        """The tokens of `sequence` whose keys and values are held."""

    def forward(self, token_ids: Integers, sequence: Integers, positions: Integers, rows: Integers) -> Floats:
        """Append tokens to their sequences and return the logits of some of them.

        token_ids, sequence, positions: int64 (N,): each token, the open sequence it belongs to, and its position
        there. Tokens of one sequence lie together, in order, and their positions go on from its length.
        rows: int64 (M,), indices into the N tokens, ascending. Returns float32 (M, V), one row of logits each.

        Raises DecoderError if a token id, position or row is out of range, and then no sequence has changed.
        """
