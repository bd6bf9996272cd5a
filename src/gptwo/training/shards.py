"""Token shards: one file of token ids behind a header that says what they are.

The header is 1,024 bytes of JSON padded with spaces and ended by a newline, so that `head -c 1024` shows it; then the
ids, little-endian uint16 (vocabularies up to 65,536) or uint32. A shard is read through a memory map.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gptwo.errors import DataError
from gptwo.files import replace_file

HEADER_BYTES = 1024
FORMAT = "gptwo-tokens-1"

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself. Raises ValueError for values that cannot be true."""

    dtype: str
    """uint16 or uint32."""
    count: int
    """Token ids in the file."""
    characters: int
    """Characters of the text they encode."""
    vocab_size: int
    tokenizer: str
    """The tokenizer's fingerprint."""
    sha256: str
    """Of the bytes after the header."""
    format: str = FORMAT

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value).__name__ != field.type or (isinstance(value, int) and value < 0):
                raise ValueError(f"{field.name} is no {field.type}")
        if self.format != FORMAT or self.dtype != dtype_for(self.vocab_size):
            raise ValueError("another format")
        if self.count and not self.characters:
            raise ValueError("tokens of no text")


def dtype_for(vocab_size: int) -> str:
    """The type of the ids of a vocabulary: the smaller of the two that holds them."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard that is open for reading."""

    path: Path
    header: ShardHeader
    tokens: Tokens
    """A read-only memory map (N,): what is not asked for is not read."""

    def __len__(self) -> int:
        return self.header.count

    def window(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """`length` ids from position `start` on, fewer at the end, int64.

        Raises DataError, naming the file, for an id beyond the vocabulary: a model would crash on it.
        """
        ids = self.tokens[start : start + length].astype(np.int64)
        if ids.size and ids.max() >= self.header.vocab_size:
            place = start + int(np.argmax(ids >= self.header.vocab_size))
            raise DataError(
                f"{self.path}: token {place} is {self.tokens[place]}, the vocabulary has {self.header.vocab_size}; "
                "make it again with 'gptwo prepare'"
            )
        return ids


def write_shard(
    path: Path, chunks: Iterable[npt.ArrayLike], *, characters: int, vocab_size: int, tokenizer: str
) -> ShardHeader:
    """Write ids as a shard, whole or not at all.

    chunks: ids, one after another, each (N,) of any integer type. Raises DataError if the file cannot be written, and
    ValueError for an id that the vocabulary does not have.
    """
    dtype, digest, count = dtype_for(vocab_size), hashlib.sha256(), 0
    try:
        with replace_file(path) as file:
            file.write(b" " * HEADER_BYTES)
            for chunk in chunks:
                ids = np.asarray(chunk, dtype=np.int64)
                if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
                    raise ValueError(f"ids from {ids.min()} to {ids.max()} for a vocabulary of {vocab_size}")
                data = ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
                digest.update(data)
                file.write(data)
                count += ids.size
            header = ShardHeader(dtype, count, characters, vocab_size, tokenizer, digest.hexdigest())
            file.seek(0)
            file.write(json.dumps(asdict(header)).encode().ljust(HEADER_BYTES - 1) + b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    return header


def read_shard(path: Path, *, verify: bool = False) -> Shard:
    """Open a shard, whose ids stay on the disk until they are asked for.

    Raises DataError, naming the file, if it is absent, not a shard, or of another length than its header says; with
    `verify`, which reads it all, also if the ids are not those that were written.
    """
    try:
        with path.open("rb") as file:
            header = _parse_header(file.read(HEADER_BYTES))
            size = file.seek(0, 2)
            expected = HEADER_BYTES + header.count * np.dtype(header.dtype).itemsize
            if size != expected:
                raise DataError(
                    f"{path}: has {size} bytes, its header says {expected}; make it again with 'gptwo prepare'"
                )
            dtype = np.dtype(header.dtype).newbyteorder("<")
            tokens: Tokens = np.empty(0, dtype=dtype)  # no system maps nothing
            if header.count:
                tokens = np.memmap(file, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(header.count,))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a token shard; make one with 'gptwo prepare'") from error
    if verify and hashlib.sha256(tokens.data).hexdigest() != header.sha256:
        raise DataError(f"{path}: its bytes are not those that were written; make it again with 'gptwo prepare'")
    return Shard(path, header, tokens)


def _parse_header(text: bytes) -> ShardHeader:
    """The header, or ValueError or TypeError."""
    values: Any = json.loads(text)
    if not isinstance(values, dict) or "format" not in values:
        raise ValueError("no header")
    return ShardHeader(**values)
