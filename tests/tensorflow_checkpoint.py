"""TensorFlow checkpoints as its Saver writes them, for the tests of the reader."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gptwo.checkpoint.tensorflow_bundle import masked_crc32c
from gptwo.config import GPTConfig

PER_RESTART = 16  # keys; the next is written whole
DTYPES = {"float32": 1, "float64": 2, "int64": 9, "uint16": 14, "float16": 19}  # uint16 holds bfloat16


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """A field of a message; protobuf leaves out a zero."""
    return varint(field << 3) + varint(value) if value else b""


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Sorted keys and their values, each key without what it shares with the one before."""
    out, restarts, before = bytearray(), [], b""
    for count, (key, value) in enumerate(entries):
        shared = 0
        if count % PER_RESTART == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries: Mapping[bytes, bytes], per_block: int = 40) -> bytes:
    """A whole index."""
    out = bytearray()

    def add(content: bytes) -> bytes:
        """Append a block; where it lies."""
        handle = varint(len(out)) + varint(len(content))
        out.extend(content + b"\0" + masked_crc32c(content + b"\0").to_bytes(4, "little"))
        return handle

    ordered = sorted(entries.items())
    parts = [ordered[start : start + per_block] for start in range(0, len(ordered), per_block)]
    handles = [(part[-1][0], add(block(part))) for part in parts]
    rest, index = add(block([])), add(block(handles))
    footer = (rest + index).ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")
    return bytes(out) + footer


def described(array: np.ndarray, offset: int, shard: int = 0) -> bytes:
    """The entry of one variable."""
    shape = b"".join(message(2, number(1, size)) for size in array.shape)
    place = number(3, shard) + number(4, offset) + number(5, array.nbytes)
    checksum = varint(6 << 3 | 5) + masked_crc32c(array.tobytes()).to_bytes(4, "little")
    return number(1, DTYPES[str(array.dtype)]) + message(2, shape) + place + checksum


def their_name(name: str) -> str:
    """Example: h.0.attn.c_attn.weight is model/h0/attn/c_attn/w."""
    if name in ("wte.weight", "wpe.weight"):
        return f"model/{name[:3]}"
    *parts, kind = name.removeprefix("h.").split(".")
    if name.startswith("h."):
        parts[0] = f"h{parts[0]}"
    gain = "g" if parts[-1].startswith("ln_") else "w"
    return "/".join(["model", *parts, {"weight": gain, "bias": "b"}[kind]])


def bundle(arrays: Mapping[str, np.ndarray], shards: int = 1) -> tuple[bytes, list[bytes]]:
    """The index, and the data of each shard, of arrays by canonical names."""
    data = [bytearray() for _ in range(shards)]
    entries = {b"": number(1, shards) + number(2, 0) + message(3, number(1, 1))}
    for count, (name, array) in enumerate(sorted(arrays.items())):
        is_kernel = name.startswith("h.") and array.ndim == 2
        shard = count % shards
        stored = array[None] if is_kernel else array  # (1, in, out)
        entries[their_name(name).encode()] = described(stored, len(data[shard]), shard)
        data[shard] += array.tobytes()
    return table(entries), [bytes(part) for part in data]


def write_tensorflow(
    directory: Path, config: GPTConfig, arrays: Mapping[str, np.ndarray], *, name: str = "model.ckpt", shards: int = 1
) -> Path:
    """A directory as OpenAI released them, without its vocabulary."""
    directory.mkdir(parents=True, exist_ok=True)
    sizes = {"n_vocab": config.vocab_size, "n_ctx": config.n_positions}
    sizes |= {"n_embd": config.n_embd, "n_head": config.n_head, "n_layer": config.n_layer}
    (directory / "hparams.json").write_text(json.dumps(sizes))
    (directory / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')
    index, data = bundle(arrays, shards)
    (directory / f"{name}.index").write_bytes(index)
    for shard, content in enumerate(data):
        (directory / f"{name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
    return directory
