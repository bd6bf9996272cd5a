"""A byte-level BPE as a table on disk, so that a process need not read 50,000 merges before its first token.

The `tokenizers` library takes a tenth of a second and tens of megabytes to read GPT-2's vocabulary. The table, a file
beside tokenizer.json, is mapped instead: it gives the bytes of any token, and encodes short texts in ASCII, for which
GPT-2's regular expression needs no tables of Unicode. All else is left to the library. The table names the
tokenizer.json that it was made from by length and checksum; beside another one it is not used.

File, little-endian: 8 bytes of magic; eight uint32: length and CRC-32 of tokenizer.json, V tokens, M merges, the id of
`<|endoftext|>` + 1 or 0, bytes of all tokens, special tokens, CRC-32 of what follows; then, as uint64, the pairs of the
merges (left id << 32 | right id), ascending; as uint32, the rank and the id that each pair merges into, the special
ids, and V + 1 offsets; then the bytes of the tokens.
"""

from __future__ import annotations

import bisect
import itertools
import json
import mmap
import re
import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from gptwo.files import replace_file

FILE: Final = "tokenizer.table"

_MAGIC: Final = b"gptwobp1"
_HEAD: Final = struct.Struct("<8s8I")
_LONGEST_TEXT: Final = 4000  # characters; for more of them the library is worth its start
_LONGEST_WORD: Final = 200  # merging a word takes time by the square of its length

# GPT-2's expression for texts in ASCII, where \p{L} is A-Za-z and \p{N} is 0-9.
_WORDS: Final = re.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+",
    re.ASCII,
)


class TokenTable:
    """The table of one tokenizer. Made by `load`; never changes."""

    def __init__(self, mapped: mmap.mmap) -> None:
        """Raises ValueError for a file that is no such table, or not whole."""
        if len(mapped) < _HEAD.size:
            raise ValueError("too short")
        magic, self.json_size, self.json_crc, tokens, merges, end, size, special, crc = _HEAD.unpack_from(mapped)
        view = memoryview(mapped)
        starts = [_HEAD.size]
        for width, count in ((8, merges), (4, merges), (4, merges), (4, special), (4, tokens + 1), (1, size)):
            starts.append(starts[-1] + width * count)
        if magic != _MAGIC or starts[-1] != len(mapped) or end > tokens or zlib.crc32(view[_HEAD.size :]) != crc:
            raise ValueError("not a table of tokens, or a damaged one")
        parts = [view[begin:end_] for begin, end_ in itertools.pairwise(starts)]
        self._pairs = parts[0].cast("Q")
        self._ranks, self._merged, special_ids, self._offsets = (part.cast("I") for part in parts[1:5])
        self._text = parts[5]
        self.vocab_size: int = tokens
        self.end_of_text_id: int | None = end - 1 if end else None
        self.special_ids = frozenset(special_ids)
        self._bytes = {self.token_bytes(token_id): token_id for token_id in self._single_bytes()}

    def _single_bytes(self) -> list[int]:
        offsets = self._offsets
        first = range(min(256 + len(self.special_ids), self.vocab_size))
        return [i for i in first if offsets[i + 1] - offsets[i] == 1 and i not in self.special_ids]

    @classmethod
    def load(cls, directory: Path) -> TokenTable | None:
        """The table in a directory, if it is there, whole, and made from the tokenizer.json beside it."""
        if sys.byteorder != "little":
            return None
        try:
            with (directory / FILE).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            table = cls(mapped)
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)  # the checksum read it all; of what follows it takes little
            with (directory / "tokenizer.json").open("rb") as file:
                source = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            with source:
                fits = len(source) == table.json_size and zlib.crc32(source) == table.json_crc
        except (OSError, ValueError):
            return None
        return table if fits and len(table._bytes) == 256 else None

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token; 0 <= token_id < vocab_size."""
        return bytes(self._text[self._offsets[token_id] : self._offsets[token_id + 1]])

    def encode(self, text: str) -> list[int] | None:
        """The ids of a text, special tokens in it taken as plain text; None if this is left to the library.

        Example: "low low" is cut into "low" and " low"; in each, the pair of neighbours whose merge was learned first
        is merged, the leftmost of them first, until no pair is left that has a merge.
        """
        if not text.isascii() or len(text) > _LONGEST_TEXT:
            return None
        ids: list[int] = []
        known: dict[str, list[int]] = {}
        for word in _WORDS.findall(text):
            if len(word) > _LONGEST_WORD:
                return None
            if word not in known:
                known[word] = self._merge([self._bytes[bytes((byte,))] for byte in word.encode()])
            ids += known[word]
        return ids

    def _merge(self, ids: list[int]) -> list[int]:
        found = [self._find(left, right) for left, right in itertools.pairwise(ids)]  # (rank, merged id)
        while found:
            rank, merged = min(found)
            if merged < 0:
                break
            at = next(i for i, pair in enumerate(found) if pair[0] == rank)
            ids[at : at + 2] = [merged]
            found[at : at + 1] = []
            if at > 0:
                found[at - 1] = self._find(ids[at - 1], merged)
            if at < len(found):
                found[at] = self._find(merged, ids[at + 1])
        return ids

    def _find(self, left: int, right: int) -> tuple[int, int]:
        """Rank and id of a pair's merge; a rank above all others and -1 if it has none."""
        pair = left << 32 | right
        at = bisect.bisect_left(self._pairs, pair)
        if at == len(self._pairs) or self._pairs[at] != pair:
            return 1 << 32, -1
        return self._ranks[at], self._merged[at]


def write_table(directory: Path, tokens: Sequence[bytes], special: Sequence[int]) -> bool:
    """Write the table of the tokenizer.json in a directory, if it is one that `TokenTable` can do; say whether.

    tokens: the bytes of each. special: the ids of special tokens. Raises OSError.
    """
    source = (directory / "tokenizer.json").read_bytes()
    settings: dict[str, Any] = json.loads(source)
    model, splitter = settings.get("model", {}), settings.get("pre_tokenizer") or {}
    plain = (
        model.get("type") == "BPE"
        and not any(model.get(key) for key in ("dropout", "unk_token", "byte_fallback", "ignore_merges", "fuse_unk"))
        and not any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
        and settings.get("normalizer") is None
        and splitter.get("type") == "ByteLevel"
        and splitter.get("use_regex") is True
        and splitter.get("add_prefix_space") is False
        and {entry["id"] for entry in settings.get("added_tokens", ())} == set(special)
    )
    first = enumerate(tokens[: 256 + len(special)])
    single = {token for token_id, token in first if len(token) == 1 and token_id not in special}
    if not plain or sys.byteorder != "little" or len(single) != 256:
        return False
    vocabulary = model["vocab"]
    merges = []
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges.append((vocabulary[left] << 32 | vocabulary[right], rank, vocabulary[left + right]))
    merges.sort()
    offsets = [0]
    for token in tokens:
        offsets.append(offsets[-1] + len(token))
    columns = [("Q", [pair for pair, _, _ in merges]), ("I", [rank for _, rank, _ in merges])]
    columns += [("I", [merged for _, _, merged in merges]), ("I", sorted(special)), ("I", offsets)]
    data = b"".join(array(kind, values).tobytes() for kind, values in columns) + b"".join(tokens)
    end = next((i + 1 for i in special if tokens[i] == b"<|endoftext|>"), 0)
    counts = (len(tokens), len(merges), end, offsets[-1], len(special))
    head = _HEAD.pack(_MAGIC, len(source), zlib.crc32(source), *counts, zlib.crc32(data))
    with replace_file(directory / FILE) as file:
        file.write(head + data)
    return True
