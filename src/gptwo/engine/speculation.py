"""Guessing the next tokens of a text from the text itself.

Texts repeat themselves: names, code, quotations. Where the last few tokens occurred before, what followed them then is
put to the model as a draft, and one step says for each token of it whether the text goes on so. The draft is only ever
a matter of speed: a token stands because it is the one that would have been chosen in its place.
Source: Saxena 2023, "Prompt lookup decoding"; Leviathan, Kalman and Matias 2023, section 2, for the verification.
"""

from __future__ import annotations

from collections.abc import Sequence

SIZES = (4, 3, 2)  # of the runs of tokens that are looked up, longest first
FIRST_LENGTH = 4
# What one drafted token costs, as a share of the step that an accepted one saves.
PRICE = 0.25
CREDIT = 2.0
SHORTEST_PAUSE, LONGEST_PAUSE = 16, 256  # tokens


class Speculator:
    """Drafts for one text. It keeps an account, and pauses while drafts cost more than they save."""

    def __init__(self, most: int) -> None:
        """most: tokens in a draft."""
        self._most, self._length = most, min(most, FIRST_LENGTH)
        self._ends: dict[tuple[int, ...], int] = {}  # where a run of tokens ended last, but not at the text's end
        self._seen = 0
        self._credit, self._pause, self._resume = CREDIT, SHORTEST_PAUSE, 0

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        """What may follow `ids`, at most `most` tokens; often nothing.

        Example: 1 2 3 4 1 2 3 goes on with 4 1 2 3 4 ..., for as long as is asked.
        """
        length = min(self._length, most)
        if length <= 0 or len(ids) < self._resume:
            return []
        self._read(ids)
        for size in SIZES:
            end = self._ends.get(tuple(ids[-size:]))
            if end is not None:
                period = len(ids) - end
                return [ids[end + i % period] for i in range(length)]
        return []

    def settle(self, drafted: int, accepted: int, length: int) -> None:
        """Note how a draft did. length: tokens of the text behind it."""
        self._length = min(self._most, 2 * drafted) if accepted == drafted else accepted + 1
        self._credit = min(CREDIT, self._credit + accepted - PRICE * drafted)
        if self._credit < 0.0:
            self._resume = length + self._pause
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
            self._credit, self._length = 0.0, 1
        elif self._credit >= CREDIT:
            self._pause = SHORTEST_PAUSE

    def _read(self, ids: Sequence[int]) -> None:
        for end in range(self._seen, len(ids)):
            for size in SIZES:
                if end >= size:
                    self._ends[tuple(ids[end - size : end])] = end
        self._seen = len(ids)
