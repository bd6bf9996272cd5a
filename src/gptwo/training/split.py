"""Which part of the documents is kept for validation.

Whole documents, if there are as many as would make the share: of 1,000 documents and a share of 0.01, each hundred
gives one, which a hash of the seed draws. So the share is met however many there are, and a document's part hangs on
nothing but its number. Of fewer documents, a single book above all, the last part of their characters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from gptwo.training.records import Document


@dataclass(frozen=True)
class Split:
    """How documents are divided."""

    share: float
    """Of the documents, for validation."""
    seed: int = 0
    end: tuple[int, int] | None = None
    """The number of a document, and how many of its characters are still for training, if the end is what is kept."""

    def training_characters(self, number: int) -> int | None:
        """How many of a document's first characters are for training, None for all of them; the rest validates."""
        if self.end is not None:
            document, characters = self.end
            return None if number < document else characters if number == document else 0
        return 0 if self.share and number == self._drawn(number) else None

    def _drawn(self, number: int) -> int:
        """The document that validates among those that `number` is one of.

        With a share of n/d, group g is the documents from g d/n to before (g + 1) d/n.
        """
        n, d = _ratio(self.share)
        group = number * n // d
        first, last = -(-group * d // n), -(-(group + 1) * d // n)
        drawn = hashlib.sha256(f"{self.seed} {group}".encode()).digest()
        return first + int.from_bytes(drawn[:8], "little") % (last - first)


def plan_split(documents: Iterable[Document], share: float, seed: int = 0) -> Split:
    """Look at as many documents as it takes to know which way they are divided.

    Of few documents with prompts the last ones are kept whole: the end of a completion means nothing without its
    prompt. share: from 0 to below 1.
    """
    if share == 0.0:
        return Split(0.0, seed)
    n, d = _ratio(share)
    lengths, prompts = [], False
    for document in documents:
        lengths.append(sum(map(len, document.blocks)))
        prompts = prompts or document.prompt is not None
        if len(lengths) * n >= d:
            return Split(share, seed)
    number, characters = end_of(lengths, share)
    if prompts and characters:
        number, characters = max(1, number), 0
    return Split(share, seed, (number, characters))


def end_of(lengths: Iterable[int], share: float) -> tuple[int, int]:
    """The document in which the last `share` of all characters begins, and its characters before that.

    lengths: the characters of each document. At least one character stays for training.
    Example: ([4, 4], 0.25) gives (1, 2), and ([4, 4], 0.5) gives (1, 0).
    """
    lengths = list(lengths)
    total = sum(lengths)
    left = max(1, total - int(total * share))
    for number, length in enumerate(lengths):
        if left < length:
            return number, left
        left -= length
    return len(lengths), 0


@cache
def _ratio(share: float) -> tuple[int, int]:
    """A share as numerator and denominator: 0.1 is 1 of 10, which a float is only nearly."""
    return Fraction(str(share)).as_integer_ratio()
