"""safetensors files: a reader over a memory map that believes nothing, and a writer that streams.

The reader is our own because NumPy's side of the safetensors library copies every tensor and has no bfloat16, and
because the native core maps packed files. The writer is our own because that side cannot write bfloat16 either.

The format: 8 bytes little-endian length of the header; the header, a JSON object {name: {dtype, shape, data_offsets}},
padded with spaces; then the data, to which the offsets are relative and which they cover without gap or overlap.
Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from gptwo.checkpoint.json_object import MAX_BYTES, parse_object
from gptwo.checkpoint.stored import STORED_AS, Array, StoredTensor, shown
from gptwo.errors import CheckpointError
from gptwo.files import replace_file

_LENGTH_BYTES: Final = 8
_ALIGNMENT: Final = 64  # where the data starts in the files that we write: a cache line
_MAX_DIMENSIONS: Final = 8
_ENCODED_AT_ONCE: Final = 1 << 20  # elements

WRITTEN_DTYPES: Final = ("F32", "F16", "BF16")


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Map a file and return its tensors by name; no element is read. Checks and errors of `read_with_metadata`."""
    return read_with_metadata(path)[0]


def read_with_metadata(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Map a file and return its tensors by name, and the texts that its header holds beside them; no element is read.

    The whole header is checked first. Raises CheckpointError naming the file, and the tensor if it is one's fault.
    """
    mapped = _map(path)
    header_length = int.from_bytes(mapped[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + header_length
    if header_length > MAX_BYTES:
        raise CheckpointError(
            f"checkpoint {path}: its header would have {header_length} bytes, more than {MAX_BYTES}; "
            "this is not a safetensors file, or it is broken"
        )
    if start > len(mapped):
        raise CheckpointError(
            f"checkpoint {path}: its header should end at byte {start}, but the file has {len(mapped)} bytes; "
            "it is cut short, or not a safetensors file"
        )
    try:
        header = parse_object(mapped[_LENGTH_BYTES:start])
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path}: its header cannot be read: {error}") from None
    metadata = _checked_metadata(path, header.pop("__metadata__", {}))
    spans = {name: _check_entry(path, name, entry) for name, entry in header.items()}
    _check_coverage(path, spans, len(mapped) - start)
    tensors = {}
    for name, (begin, _) in spans.items():
        dtype, shape = header[name]["dtype"], tuple(header[name]["shape"])
        try:
            raw: Array = np.ndarray(shape, STORED_AS[dtype], buffer=mapped, offset=start + begin)
        except (ValueError, OverflowError) as error:  # a shape such as (0, 2**62), which NumPy cannot express
            raise _broken(path, name, f"has a shape that cannot be held: {error}") from None
        tensors[name] = StoredTensor(name, path, dtype, raw)
    return tensors, metadata


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _LENGTH_BYTES:
                raise CheckpointError(f"checkpoint {path}: it has {size} bytes, too few for a safetensors file")
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path}: cannot be read: {error}") from error


def _checked_metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(f"checkpoint {path}: its __metadata__ is not an object of strings")
    return metadata


def _check_entry(path: Path, name: str, entry: Any) -> tuple[int, int]:
    """Check what one entry says by itself; return where its data begins and ends."""
    if not isinstance(entry, dict):
        raise _broken(path, name, "has an entry that is not an object")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in STORED_AS:
        said = shown(dtype) if isinstance(dtype, str) else f"of type {type(dtype).__name__}"
        raise _broken(path, name, f"has the unknown dtype {said}")
    if not isinstance(shape, list) or not all(_is_count(size) for size in shape):
        raise _broken(path, name, "has a shape that is not a list of sizes")
    if len(shape) > _MAX_DIMENSIONS:
        raise _broken(path, name, f"has {len(shape)} dimensions, more than {_MAX_DIMENSIONS}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(offset) for offset in offsets):
        raise _broken(path, name, "has data_offsets that are not two positions")
    begin, end = offsets
    if begin > end:
        raise _broken(path, name, f"begins at byte {begin} of the data, after its end at {end}")
    needed = math.prod(shape) * STORED_AS[dtype].itemsize
    if end - begin != needed:
        raise _broken(path, name, f"takes {end - begin} bytes, but {dtype} {_shape(shape)} needs {needed}")
    return begin, end


def _is_count(value: object) -> bool:
    """Whether it is an integer from 0 to 2**63 - 1, so that eight of them still multiply to a printable number."""
    return type(value) is int and 0 <= value < 2**63


def _check_coverage(path: Path, spans: Mapping[str, tuple[int, int]], size: int) -> None:
    """Check that the tensors cover the `size` bytes of data, in some order, without gap or overlap."""
    reached, previous = 0, ""
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if end > size:
            raise _broken(path, name, f"ends at byte {end} of the data, which has {size} bytes; the file is cut short")
        if begin < reached:
            raise _broken(path, name, f"begins at byte {begin} of the data, inside tensor {shown(previous)}")
        if begin > reached:
            raise _broken(path, name, f"begins at byte {begin} of the data, leaving a gap after byte {reached}")
        reached, previous = end, name
    if reached != size:
        raise CheckpointError(f"checkpoint {path}: {size - reached} bytes follow its last tensor")


def _shape(shape: list[int]) -> str:
    return str(tuple(shape)) if len(str(shape)) <= 80 else "of such a shape"


def _broken(path: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path}: tensor {shown(name)} {what}")


def write_safetensors(path: Path, arrays: Mapping[str, Array], dtype: str) -> None:
    """Write arrays of floats as `dtype`, one of WRITTEN_DTYPES, converted piece by piece.

    The file appears under its name only once it is whole and on the disk. Raises CheckpointError for a value
    beyond the dtype's range, and OSError as the system does.
    """
    write_taken(path, {name: array.shape for name, array in arrays.items()}, arrays.__getitem__, dtype)


def write_taken(path: Path, shapes: Mapping[str, tuple[int, ...]], take: Callable[[str], Array], dtype: str) -> None:
    """As `write_safetensors`, with arrays of these shapes that are asked for one at a time, in order."""
    metadata = {"format": "pt"}  # transformers refuses a file that lacks it
    with replace_file(path) as file:
        file.write(_header({name: (dtype, shape) for name, shape in shapes.items()}, metadata))
        for name in shapes:
            write_values(file, take(name), dtype, name)


def write_values(file: BinaryIO, array: Array, dtype: str, name: str) -> None:
    """Write floats in C order as `encode` gives them, piece by piece."""
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, flat.size, _ENCODED_AT_ONCE):
        file.write(encode(flat[start : start + _ENCODED_AT_ONCE], dtype, name).data)


def write_as_stored(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays of uint8 and float32 as U8 and F32, one after another, the first on a cache line.

    As `write_safetensors` otherwise.
    """
    dtypes = {name: next(d for d in ("U8", "F32") if STORED_AS[d] == array.dtype) for name, array in arrays.items()}
    with replace_file(path) as file:
        file.write(_header({name: (dtypes[name], array.shape) for name, array in arrays.items()}, metadata))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)


def _header(entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """What a file begins with, up to its data. entries: dtype and shape of each tensor, in their order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (dtype, shape) in entries.items():
        begin, end = end, end + math.prod(shape) * STORED_AS[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def encode_all(array: Array, dtype: str, name: str) -> Array:
    """A whole array as `encode` gives it, piece by piece where that takes memory of its own; contiguous."""
    if dtype == "F32":
        return encode(array, dtype, name)
    flat = np.ascontiguousarray(array).reshape(-1)
    stored: Array = np.empty(flat.size, STORED_AS[dtype])
    for start in range(0, flat.size, _ENCODED_AT_ONCE):
        piece = slice(start, start + _ENCODED_AT_ONCE)
        stored[piece] = encode(flat[piece], dtype, name)
    return stored.reshape(array.shape)


def encode(array: Array, dtype: str, name: str) -> Array:
    """Floats as they are stored: contiguous, in STORED_AS[dtype], rounded to the nearest, ties to even.

    BF16 keeps every NaN a NaN. Raises CheckpointError if a finite value would become infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = np.require(array, np.float32, ["C", "A"])
        if dtype == "BF16":
            bits = narrow.view(np.uint32)
            # Adding just under half of the lost part, plus one if the kept part is odd, carries exactly when the
            # nearest is above or the tie goes to even; a NaN is cut off instead, with its quiet bit set.
            rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
            stored = np.where(np.isnan(narrow), (bits >> 16) | 0x40, rounded).astype(STORED_AS[dtype])
            infinite = (stored & 0x7FFF) == 0x7F80
        else:
            stored = narrow.astype(STORED_AS[dtype], copy=False)
            infinite = np.isinf(stored)
    if np.any(infinite & np.isfinite(array)):
        raise CheckpointError(f"tensor {shown(name)} has values beyond the range of {dtype}; save it as F32")
    return stored
