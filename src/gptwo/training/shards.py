"""Token shards: one file of token ids behind a header that says what they are.

The header is 1,024 bytes of JSON padded with spaces and ended by a newline, so that `head -c 1024` shows it; then the
ids, little-endian uint16 (vocabularies up to 65,536) or uint32. A shard is read through a memory map.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
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
    """What a shard says of itself."""

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


def write_shard(path: Path, ids: npt.NDArray[Any], *, characters: int, vocab_size: int, tokenizer: str) -> ShardHeader:
    """Write ids (N,) as a shard, whole or not at all. Raises DataError if the file cannot be written."""
    data = ids.astype("<u2" if vocab_size <= 2**16 else "<u4").tobytes()
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"
    header = ShardHeader(dtype, len(ids), characters, vocab_size, tokenizer, hashlib.sha256(data).hexdigest())
    text = json.dumps(asdict(header)).encode()
    try:
        with replace_file(path) as file:
            file.write(text.ljust(HEADER_BYTES - 1) + b"\n")
            file.write(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    return header


def read_shard(path: Path, *, verify: bool = False) -> tuple[ShardHeader, Tokens]:
    """The header, and the ids as a read-only memory map (N,).

    Raises DataError, naming the file, if it is absent, not a shard, or of another length than its header says; with
    `verify` also if the ids are not those that were written.
    """
    try:
        with path.open("rb") as file:
            text = file.read(HEADER_BYTES)
        values = json.loads(text)
        if values["format"] != FORMAT or values["dtype"] not in ("uint16", "uint32") or values["count"] < 0:
            raise ValueError
        header = ShardHeader(**values)
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a token shard; make one with 'gptwo prepare'") from error
    expected = HEADER_BYTES + header.count * np.dtype(header.dtype).itemsize
    if size != expected:
        raise DataError(f"{path}: has {size} bytes, its header says {expected}; make it again with 'gptwo prepare'")
    dtype = np.dtype(header.dtype).newbyteorder("<")
    if header.count == 0:
        return header, np.empty(0, dtype=dtype)
    ids = np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(header.count,))
    if verify and hashlib.sha256(ids.tobytes()).hexdigest() != header.sha256:
        raise DataError(f"{path}: its bytes are not those that were written; make it again with 'gptwo prepare'")
    return header, ids
