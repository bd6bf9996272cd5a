"""Sequences of token ids as one rectangle.

B sequences in a batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from gptwo.errors import InvalidRequestError
from gptwo.options import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def pad(
    batch: Sequence[Sequence[int]], *, side: Literal["left", "right"], pad_id: int, length: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sequences of ids as one rectangle.

    Returns ids and mask, int64 (B, T): T is `length`, or that of the longest sequence; the mask is 1 where a real token
    stands and 0 where pad_id fills. Raises InvalidRequestError for an empty batch, a sequence longer than `length`,
    another side, or a pad_id below 0.

    Example: pad([[7, 8, 9], [5]], side="left", pad_id=0) == ([[7, 8, 9], [0, 0, 5]], [[1, 1, 1], [0, 0, 1]])
    """
    import numpy as np

    if side not in ("left", "right"):
        raise InvalidRequestError(f"side is {shown(side)}, expected 'left' or 'right'", param="side")
    if isinstance(pad_id, bool) or not isinstance(pad_id, int) or not 0 <= pad_id < 2**31:
        raise InvalidRequestError(f"pad_id is {shown(pad_id)}, expected a token id", param="pad_id")
    if len(batch) == 0:
        raise InvalidRequestError("the batch to pad is empty, expected at least one sequence", param="batch")
    longest = max(map(len, batch))
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < longest):
        raise InvalidRequestError(
            f"length is {shown(length)}, expected at least {longest}, that of the longest sequence", param="length"
        )
    width = longest if length is None else length
    ids = np.full((len(batch), width), pad_id, dtype=np.int64)  # (B, T)
    mask = np.zeros((len(batch), width), dtype=np.int64)  # (B, T)
    for row, sequence in enumerate(batch):
        start = width - len(sequence) if side == "left" else 0
        ids[row, start : start + len(sequence)] = sequence
        mask[row, start : start + len(sequence)] = 1
    return ids, mask
