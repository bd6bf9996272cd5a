"""Token shards: one file of token ids behind a header that says what they are.

The header is 1,024 bytes of JSON padded with spaces and ended by a newline, so that `head -c 1024` shows it; then the
ids, little-endian uint16 (vocabularies up to 65,536) or uint32. A shard is read through a memory map.

In a masked shard some tokens are there to be read but not to be learned, such as prompts: its ids are uint32, and the
highest bit is set on those.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gptwo.errors import DataError
from gptwo.files import replace_file

HEADER_BYTES = 1024
FORMAT = "gptwo-tokens-1"
NOT_LEARNED = 2**31  # the bit, in masked shards
_BLOCK_BYTES = 1 << 20

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself. Raises ValueError for values that cannot be true."""

    dtype: str
    """uint16 or uint32."""
    count: int
    """Token ids in the file."""
    characters: int
    """Characters of the text they encode; 0 if nobody counted them, in files of other programs."""
    vocab_size: int
    tokenizer: str
    """The tokenizer's fingerprint."""
    sha256: str
    """Of the bytes after the header."""
    format: str = FORMAT
    masked: bool = False

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if type(value).__name__ != one.type or (isinstance(value, int) and value < 0):
                raise ValueError(f"{one.name} is no {one.type}")
        if self.format != FORMAT or self.dtype != dtype_for(self.vocab_size, masked=self.masked):
            raise ValueError("another format")


def dtype_for(vocab_size: int, *, masked: bool = False) -> str:
    """The type of the ids of a vocabulary: the smaller of the two that holds them, and the mask if there is one."""
    return "uint16" if vocab_size <= 2**16 and not masked else "uint32"


@dataclass(frozen=True)
class Shard:
    """A shard that is open for reading."""

    path: Path
    header: ShardHeader
    tokens: Tokens = field(compare=False, repr=False)
    """A read-only memory map (N,): what is not asked for is not read. In a masked shard with the bit of the mask."""

    def __len__(self) -> int:
        return self.header.count

    def window(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """`length` ids from position `start` on, fewer at the end, int64.

        Raises DataError, naming the file, for an id beyond the vocabulary: a model would crash on it.
        """
        ids = self.tokens[start : start + length].astype(np.int64)
        if self.header.masked:
            ids &= NOT_LEARNED - 1
        if ids.size and ids.max() >= self.header.vocab_size:
            place = int(np.argmax(ids >= self.header.vocab_size))
            raise DataError(
                f"{self.path}: token {start + place} is {ids[place]}, the vocabulary has {self.header.vocab_size}; "
                "is it damaged, or of another tokenizer?"
            )
        return ids

    def learned(self, start: int, length: int) -> npt.NDArray[np.bool_]:
        """Which of the same tokens are to be learned, bool; all of them unless the shard is masked."""
        tokens = self.tokens[start : start + length]
        return tokens < NOT_LEARNED if self.header.masked else np.ones(tokens.shape, dtype=np.bool_)


class ShardWriter:
    """Writes a shard into a file: ids as they come, and at the end the header before them."""

    def __init__(self, file: BinaryIO, *, vocab_size: int, tokenizer: str, masked: bool = False, count: int = 0):
        """file: empty, or one that was written to before, of which the first `count` ids stay.

        Raises ValueError if the file has fewer, OSError as the file system does.
        """
        self.file, self.vocab_size, self.tokenizer, self.masked, self.count = file, vocab_size, tokenizer, masked, count
        self._dtype = np.dtype(dtype_for(vocab_size, masked=masked)).newbyteorder("<")
        self._digest = hashlib.sha256()
        end = HEADER_BYTES + count * self._dtype.itemsize
        if file.seek(0, 2) < end and count:
            raise ValueError(f"the file has {file.tell()} bytes, expected at least {end}")
        file.seek(0)
        file.write(b" " * HEADER_BYTES)
        file.truncate(end)
        while block := file.read(_BLOCK_BYTES) if count else b"":
            self._digest.update(block)

    def append(self, ids: npt.ArrayLike, *, learned: bool = True) -> None:
        """Write ids (N,) of any integer type. Raises ValueError for one that the vocabulary does not have."""
        array = np.asarray(ids, dtype=np.int64)
        if array.size and not 0 <= array.min() <= array.max() < self.vocab_size:
            raise ValueError(f"ids from {array.min()} to {array.max()} for a vocabulary of {self.vocab_size}")
        if not learned:
            array = array | NOT_LEARNED
        data = array.astype(self._dtype).tobytes()
        self._digest.update(data)
        self.file.write(data)
        self.count += array.size

    def finish(self, characters: int) -> ShardHeader:
        """Write the header. characters: of the text that the ids encode."""
        header = ShardHeader(
            self._dtype.name, self.count, characters, self.vocab_size, self.tokenizer, self._digest.hexdigest(),
            masked=self.masked,
        )  # fmt: skip
        values = {name: value for name, value in asdict(header).items() if name != "masked" or value}
        self.file.seek(0)
        self.file.write(json.dumps(values).encode().ljust(HEADER_BYTES - 1) + b"\n")
        return header


def write_shard(
    path: Path, chunks: Iterable[npt.ArrayLike], *, characters: int, vocab_size: int, tokenizer: str
) -> ShardHeader:
    """Write ids as a shard, whole or not at all.

    chunks: ids, one after another, each (N,) of any integer type. Raises DataError if the file cannot be written, and
    ValueError for an id that the vocabulary does not have.
    """
    try:
        with replace_file(path) as file:
            writer = ShardWriter(file, vocab_size=vocab_size, tokenizer=tokenizer)
            for chunk in chunks:
                writer.append(chunk)
            return writer.finish(characters)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


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
            tokens = map_tokens(file, np.dtype(header.dtype), HEADER_BYTES, header.count)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a token shard; make one with 'gptwo prepare'") from error
    if verify and hashlib.sha256(tokens.data).hexdigest() != header.sha256:
        raise DataError(f"{path}: its bytes are not those that were written; make it again with 'gptwo prepare'")
    return Shard(path, header, tokens)


def map_tokens(file: BinaryIO, dtype: np.dtype[Any], offset: int, count: int) -> Tokens:
    """A read-only memory map (count,) of little-endian ids from `offset` bytes on. Raises OSError or ValueError."""
    dtype = dtype.newbyteorder("<")
    if not count:
        return np.empty(0, dtype=dtype)  # no system maps nothing
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=(count,))


def is_shard(path: Path) -> bool:
    """Whether a file begins as a shard does, whole or not. Raises OSError."""
    with path.open("rb") as file:
        return file.read(HEADER_BYTES).startswith((b'{"dtype": "uint', b" " * HEADER_BYTES))


def _parse_header(text: bytes) -> ShardHeader:
    """The header, or ValueError or TypeError."""
    values: Any = json.loads(text)
    if not isinstance(values, dict) or "format" not in values:
        raise ValueError("no header")
    header = ShardHeader(**values)
    if header.count and not header.characters:
        raise ValueError("tokens of no text")
    return header
