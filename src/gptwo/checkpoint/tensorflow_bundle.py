"""TensorFlow's checkpoints: PREFIX.index and PREFIX.data-00000-of-00001, read without TensorFlow.

The index is a sorted table as LevelDB writes it: blocks of keys and values, each followed by a byte that says how it is
compressed and by a masked CRC-32C, then a footer with the places of the block that lists the others. A key shares its
beginning with the one before. The value of the empty key describes the whole, every other a variable (messages of
tensor_bundle.proto); where a variable lies in the data, its elements lie in C order.
Source: https://github.com/google/leveldb/blob/main/doc/table_format.md and
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from gptwo.checkpoint.stored import STORED_AS, Array, StoredTensor, shown
from gptwo.errors import CheckpointError

INDEX: Final = ".index"

_FOOTER: Final = 48  # bytes; the last eight are the magic number
_MAGIC: Final = 0xDB4775248B80FB57
_TRAILER: Final = 5  # of a block: compression, checksum
_MOST_BYTES: Final = 1_000_000  # of an index; that of 1.5 billion parameters has 30 kB
_MOST_KEYS: Final = 10_000
_LONGEST_KEY: Final = 250  # bytes; without a bound, keys that share their beginnings grow far beyond the file
_MOST_SHARDS: Final = 1000
_DTYPES: Final = {1: "F32", 2: "F64", 3: "I32", 9: "I64", 14: "BF16", 19: "F16"}

Fields = dict[int, list[int | bytes]]


class _DamagedError(Exception):
    """What is wrong with an index, before its name is known."""


def read_bundle(index: Path) -> dict[str, StoredTensor]:
    """The variables of a checkpoint by name, mapped; no element is read. index: the file in .index.

    The blocks of the index are checked against their checksums, the data against its size alone. Raises
    CheckpointError, naming file and variable.
    """
    try:
        with index.open("rb") as file:
            # Asking for more than there is would allocate it.
            table = file.read(min(os.fstat(file.fileno()).st_size, _MOST_BYTES) + 1)
        entries = dict(_entries(table))
        header = _fields(entries.pop(b"", b""))
        shards = _integer(header, 1)
        if not 1 <= shards <= _MOST_SHARDS or _integer(header, 2) != 0:
            raise _DamagedError(f"it says that its data is in {shards} files, or big-endian")
        described = {key.decode("utf-8", "replace"): _fields(value) for key, value in entries.items()}
        return _tensors(index, shards, described)
    except _DamagedError as error:
        raise CheckpointError(f"checkpoint {index}: not an index of TensorFlow's, or a broken one: {error}") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {index}: cannot be read: {error}") from error


def _tensors(index: Path, shards: int, described: dict[str, Fields]) -> dict[str, StoredTensor]:
    mapped: dict[int, tuple[Path, mmap.mmap | bytes]] = {}
    tensors = {}
    for name, entry in described.items():
        shard = _integer(entry, 3)
        if shard >= shards:
            raise _DamagedError(f"variable {shown(name)} is said to be in file {shard} of {shards}")
        if shard not in mapped:
            path = index.with_name(f"{index.name.removesuffix(INDEX)}.data-{shard:05d}-of-{shards:05d}")
            mapped[shard] = path, _map(path)
        path, data = mapped[shard]
        dtype = _DTYPES.get(_integer(entry, 1))
        if dtype is None or 7 in entry:
            raise _DamagedError(f"variable {shown(name)} is in slices, or of a type that gptwo does not read")
        shape = _shape(entry)
        offset, size = _integer(entry, 4), _integer(entry, 5)
        if size != math.prod(shape) * STORED_AS[dtype].itemsize:
            raise _DamagedError(f"variable {shown(name)} takes {size} bytes, which are not those of its shape")
        if offset + size > len(data):
            raise CheckpointError(
                f"checkpoint {path}: variable {shown(name)} ends at byte {offset + size}, but the file has "
                f"{len(data)}; it is cut short"
            )
        try:
            raw: Array = np.ndarray(shape, STORED_AS[dtype], buffer=data, offset=offset)
        except (ValueError, OverflowError):  # a shape such as (0, 2**62), which NumPy cannot express
            raise _DamagedError(f"variable {shown(name)} has an impossible shape") from None
        tensors[name] = StoredTensor(name, path, dtype, raw)
    return tensors


def _map(path: Path) -> mmap.mmap | bytes:
    if not path.is_file():  # which a pipe is not either
        raise CheckpointError(f"checkpoint {path}: is not there, though the index beside it names it")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""


def _shape(entry: Fields) -> tuple[int, ...]:
    sizes = []
    for message in entry.get(2, [])[-1:]:
        fields = _fields(message)
        if 3 in fields:
            raise _DamagedError("a variable has no known shape")
        sizes = [_integer(_fields(dimension), 1) for dimension in fields.get(2, [])]
    if len(sizes) > 8 or any(size >= 2**63 for size in sizes):
        raise _DamagedError("a variable has an impossible shape")
    return tuple(sizes)


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All keys of a table with their values."""
    if len(table) > _MOST_BYTES:
        raise _DamagedError(f"it has over {_MOST_BYTES} bytes")
    if len(table) < _FOOTER or int.from_bytes(table[-8:], "little") != _MAGIC:
        raise _DamagedError("it does not end as a table does; it is cut short, or something else")
    footer = table[-_FOOTER:-8]
    at = 0
    for _ in range(2):  # the place of another block, which is not needed
        _, at = _varint(footer, at)
    number, reached, last = 0, 0, None
    for _, handle in _block(table, *_place(footer[at:])):
        begin, size = _place(handle)
        if begin < reached:
            raise _DamagedError("two blocks overlap")
        reached = begin + size
        for key, value in _block(table, begin, size):
            number += 1
            if (last is not None and key <= last) or len(key) > _LONGEST_KEY or number > _MOST_KEYS:
                raise _DamagedError("its keys are not sorted, too long or too many")
            last = key
            yield key, value


def _place(handle: bytes) -> tuple[int, int]:
    """Where a block begins, and its size."""
    begin, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    return begin, size


def _block(table: bytes, begin: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys of one block with their values."""
    end = begin + size
    if end + _TRAILER > len(table) - _FOOTER:
        raise _DamagedError("a block ends after the table")
    if table[end] != 0:
        raise _DamagedError("a block is compressed, as those of checkpoints never are")
    if int.from_bytes(table[end + 1 : end + _TRAILER], "little") != masked_crc32c(table[begin : end + 1]):
        raise _DamagedError("a block has another checksum than it should")
    block = table[begin:end]
    restarts = int.from_bytes(block[-4:], "little")
    end_of_entries = len(block) - 4 * (restarts + 1)
    if end_of_entries < 0:
        raise _DamagedError("a block is too short")
    key, at = b"", 0
    while at < end_of_entries:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + rest + length > end_of_entries:
            raise _DamagedError("an entry of a block ends after it")
        key = key[:shared] + block[at : at + rest]
        at += rest
        yield key, block[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            raise _DamagedError("a number is cut short")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise _DamagedError("a number is too long")


def _fields(message: int | bytes) -> Fields:
    """The fields of a protobuf message by their numbers, each as often as it is there."""
    if isinstance(message, int):
        raise _DamagedError("a number stands where a message should")
    fields: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, length = tag & 7, 0
        if kind == 0:
            value, at = _varint(message, at)
            fields.setdefault(tag >> 3, []).append(value)
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _DamagedError("a message has a field of an unknown kind")
        if at + length > len(message):
            raise _DamagedError("a message is cut short")
        fields.setdefault(tag >> 3, []).append(message[at : at + length])
        at += length
    return fields


def _integer(fields: Fields, number: int) -> int:
    """The last value of a field; 0, as everywhere in protobuf, if it is not there."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise _DamagedError("a message stands where a number should")
    return value


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and moved as LevelDB stores it."""
    crc, table = 0xFFFFFFFF, _crc_table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table
