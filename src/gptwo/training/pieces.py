"""Texts of any length cut into pieces that are encoded one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from gptwo.errors import DataError

PIECE_CHARACTERS = 1 << 18
LONGEST_PIECE = 1 << 26  # characters without a place to cut, which no text has

# Where a text may be cut (see `pieces`). The second place is for scripts that have few spaces.
_BEFORE_A_SPACE = re.compile(r"(?= \S)")
_BEHIND_A_LINE = re.compile(r"(?<=\S\n)(?=\S)")


def pieces(blocks: Iterable[str], *, anywhere: bool = False, place: str = "the text") -> Iterator[str]:
    """Cut a text into pieces of about PIECE_CHARACTERS that encode, one by one, to what the whole would.

    blocks: the text in parts, however it was read; the pieces are the same. anywhere: cut after exactly so many
    characters, for a tokenizer that has a token for each. place: names the text in an error.

    So memory stays small and several processes can encode. GPT-2's pattern takes a run of white space but for its last
    character as one word, and that last one with what follows if it is a space. A text may thus be cut before a space
    that something else than white space follows, or, where no space is near, behind a line end that stands alone.
    Raises DataError for a text that has neither for LONGEST_PIECE characters.
    Example: "a  b" may become "a " and " b", but not "a  " and "b".
    Source: Radford et al. 2019, the expression of the released encoder.
    """
    size = PIECE_CHARACTERS
    text, source = "", iter(blocks)

    def read_to(length: int) -> bool:
        """Have `length` characters at hand; false if the text ends before."""
        nonlocal text
        parts, have = [text], len(text)
        while have < length and (block := next(source, None)) is not None:
            parts.append(block)
            have += len(block)
        text = "".join(parts)
        return have >= length

    while read_to(size + 1):
        cut = size if anywhere else None
        least = size
        while cut is None:
            more = read_to(least + size)
            found = _BEFORE_A_SPACE.search(text, least, least + size) or _BEHIND_A_LINE.search(
                text, least, least + size
            )
            if found is not None:
                cut = found.start()
            elif not more:
                cut = len(text)
            elif least > LONGEST_PIECE:
                raise DataError(f"{place}: has {least:,} characters without a space or a line end; is it text?")
            least += size
        yield text[:cut]
        text = text[cut:]
    if text:
        yield text
