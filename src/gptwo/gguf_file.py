"""GGUF files, read over a memory map by a reader that believes nothing.

They are written through the `gguf` library. Its reader is not used: it follows the counts in a file wherever they lead.

The format, little-endian: "GGUF", version (uint32; 2 and 3 are alike), the number of tensors and of values (uint64);
the values: a key, a type (uint32) and what it says; the tensors: a name, the number of dimensions (uint32), the
dimensions from the innermost (uint64), the type (uint32), the offset of the data (uint64); then the data, from the next
multiple of the alignment. Strings are a length (uint64) and UTF-8; an array is the type of its elements (uint32),
their number (uint64), and the elements.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gptwo.errors import CheckpointError
from gptwo.options import shown

STRING: Final = 8
ARRAY: Final = 9
_SCALARS: Final = {
    kind: struct.Struct("<" + code)
    for kind, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = 32  # unless `general.alignment` says otherwise
_MOST_ALIGNMENT: Final = 1 << 16
_DIMENSIONS: Final = 4
_NESTING: Final = 4  # of arrays
_GPT2_CUTS: Final = ("gpt-2", "gpt2")  # names of the expression that cuts text into words
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # types of tokens
_LONGEST_NAME: Final = 1 << 16  # bytes of a key or a tensor's name
_MOST_BYTES: Final = 32_000_000  # of the header; with a vocabulary of 256,000 tokens it has some 10 million
_MOST_NAMES: Final = 10_000  # of values, and of tensors: short ones grow tenfold in Python


@dataclass(frozen=True)
class GGUFTensor:
    """What a file says of one tensor."""

    shape: tuple[int, ...]
    """Outermost first, as NumPy has it."""
    kind: int
    """ggml's number of its type."""
    offset: int
    """Where its data begins in the file; where it ends is for those to check who know the type."""


@dataclass(frozen=True)
class GGUFArray:
    """An array that is read when it is asked for."""

    kind: int
    count: int
    offset: int


class GGUFFile:
    """One file, its header checked. `values` has scalars and strings as they are, arrays as GGUFArray."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError, naming the file, for what is no GGUF or not whole up to its data."""
        self.path = path
        self.mapped = _map(path)
        self._at = len(_MAGIC)
        version = self._scalar(4)
        if self.mapped[: len(_MAGIC)] != _MAGIC or version not in _VERSIONS:
            raise self.broken("it does not begin as a GGUF file of version 2 or 3, little-endian, does")
        tensors, values = self._scalar(10), self._scalar(10)
        if max(tensors, values) > _MOST_NAMES:
            raise self.broken(f"it says that it has {tensors} tensors and {values} values")
        self.values: dict[str, Any] = {}
        for _ in range(values):
            key = self._name("a key")
            if key in self.values:
                raise self.broken(f"the key {shown(key)} is there twice")
            self.values[key] = self._value(self._scalar(4))
        infos = {}
        for _ in range(tensors):
            name = self._name("a tensor's name")
            if name in infos:
                raise self.broken(f"tensor {shown(name)} is there twice")
            infos[name] = self._info(name)
        self.alignment = self._alignment()
        start = -(-self._at // self.alignment) * self.alignment
        self.tensors: Mapping[str, GGUFTensor] = {
            name: GGUFTensor(shape, kind, start + offset) for name, (shape, kind, offset) in infos.items()
        }
        self.data_start = start

    def strings(self, key: str) -> list[str] | None:
        """An array of strings, or None if the key is not there."""
        array = self._array(key, (STRING,), "strings")
        if array is None:
            return None
        self._at = array.offset
        return [self._string() for _ in range(array.count)]

    def integers(self, key: str) -> list[int] | None:
        """An array of integers, or None if the key is not there."""
        array = self._array(key, (0, 1, 2, 3, 4, 5, 10, 11), "integers")
        if array is None:
            return None
        one = _SCALARS[array.kind]
        data = self.mapped[array.offset : array.offset + array.count * one.size]
        return [value for (value,) in one.iter_unpack(data)]

    def broken(self, what: str) -> CheckpointError:
        """The error that says what is wrong with the file."""
        return CheckpointError(f"checkpoint {self.path}: {what}")

    def _array(self, key: str, kinds: tuple[int, ...], expected: str) -> GGUFArray | None:
        array = self.values.get(key)
        if array is not None and not (isinstance(array, GGUFArray) and array.kind in kinds):
            raise self.broken(f"{key} is no array of {expected}")
        return array

    def _alignment(self) -> int:
        alignment = self.values.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or not 1 <= alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
            raise self.broken(f"general.alignment is {shown(alignment)}, expected a power of two")
        return alignment

    def _take(self, count: int) -> int:
        """Go forward by so many bytes; where they begin."""
        begin, self._at = self._at, self._at + count
        if self._at > len(self.mapped):
            raise self.broken(f"it ends at byte {len(self.mapped)}, inside its header; it is cut short")
        if self._at > _MOST_BYTES:
            raise self.broken(f"its header has over {_MOST_BYTES} bytes")
        return begin

    def _scalar(self, kind: int) -> Any:
        one = _SCALARS[kind]
        return one.unpack_from(self.mapped, self._take(one.size))[0]

    def _string(self, longest: int | None = None) -> str:
        size = self._scalar(10)
        if longest is not None and size > longest:
            raise self.broken(f"a name in it would have {size} bytes")
        begin = self._take(size)
        try:
            return self.mapped[begin : begin + size].decode()
        except UnicodeDecodeError:
            raise self.broken(f"its text at byte {begin} is not UTF-8") from None

    def _name(self, what: str) -> str:
        name = self._string(_LONGEST_NAME)
        if not name:
            raise self.broken(f"{what} in it is empty")
        return name

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(kind)
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._skip_array(_NESTING)
        raise self.broken(f"a value in it has the unknown type {kind}")

    def _skip_array(self, depth: int) -> GGUFArray:
        kind, count = self._scalar(4), self._scalar(10)
        begin = self._at
        if kind in _SCALARS:
            self._take(count * _SCALARS[kind].size)
        elif kind == STRING:
            for _ in range(count):
                self._take(self._scalar(10))
        elif kind == ARRAY and depth:
            for _ in range(count):
                self._skip_array(depth - 1)
        else:
            raise self.broken(f"an array in it has elements of the unknown type {kind}, or is nested too deeply")
        return GGUFArray(kind, count, begin)

    def _info(self, name: str) -> tuple[tuple[int, ...], int, int]:
        count = self._scalar(4)
        if count > _DIMENSIONS:
            raise self.broken(f"tensor {shown(name)} has {count} dimensions, more than {_DIMENSIONS}")
        dimensions = [self._scalar(10) for _ in range(count)]
        return tuple(reversed(dimensions)), self._scalar(4), self._scalar(10)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < len(_MAGIC):
                raise CheckpointError(f"checkpoint {path}: it has {size} bytes, too few for a GGUF file")
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error


def read_gguf_vocabulary(path: Path) -> tuple[list[str], list[tuple[str, str]], list[int], list[int]]:
    """The tokenizer in a file: the name of each id, the merges, and the ids of special and of other added tokens.

    Names and merges are spelt in GPT-2's printable stand-ins for bytes. Unused ids at the end are left out. Raises
    CheckpointError if there is none, or it is not of GPT-2's kind.
    """
    file = GGUFFile(path)
    kind, cut = file.values.get("tokenizer.ggml.model"), file.values.get("tokenizer.ggml.pre", "gpt-2")
    names = file.strings("tokenizer.ggml.tokens")
    if kind != "gpt2" or cut not in _GPT2_CUTS or not names:
        raise file.broken(f"its tokenizer is {shown(kind)}, {shown(cut)}; gptwo reads those of GPT-2's kind")
    types = file.integers("tokenizer.ggml.token_type") or [_NORMAL] * len(names)
    if len(types) != len(names):
        raise file.broken(f"it has {len(names)} tokens and {len(types)} types of tokens")
    while types and types[-1] == _UNUSED:
        types.pop()
    merges = []
    for merge in file.strings("tokenizer.ggml.merges") or ():
        left, _, right = merge.partition(" ")
        if not (left and right) or " " in right:
            raise file.broken(f"{shown(merge)} is no merge of two tokens")
        merges.append((left, right))
    special = [token_id for token_id, kind in enumerate(types) if kind == _CONTROL]
    added = [token_id for token_id, kind in enumerate(types) if kind == _USER_DEFINED]
    return names[: len(types)], merges, special, added
