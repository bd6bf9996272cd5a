"""Token files of other programs, read as they are: nanoGPT's and llm.c's.

nanoGPT: a directory with `train.bin` and `val.bin`, uint16 ids and nothing else; for characters, `meta.pkl` says which.
llm.c (and modded-nanogpt): `*train*.bin` and `*val*.bin`, each 256 int32 (a magic number, the version 1, the count of
tokens, zeros), then uint16 ids. All little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.errors import DataError, InvalidRequestError, TokenizerError
from gptwo.tokenizer import END_OF_TEXT, Tokenizer
from gptwo.training.plain_pickle import read_plain_pickle
from gptwo.training.shards import Shard, ShardHeader, is_shard, map_tokens
from gptwo.training.token_data import TokenData

LLM_C_MAGIC = 20240520
LLM_C_HEADER_BYTES = 1024
META = "meta.pkl"
_LARGEST_META = 16 * 2**20
_SAMPLE_BYTES = 1 << 20
_BLOCK_TOKENS = 1 << 22


@dataclass(frozen=True)
class ForeignFiles:
    """What a directory of another program holds."""

    directory: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    has_headers: bool
    """llm.c's, rather than nanoGPT's."""


def find_foreign(directory: Path) -> ForeignFiles | None:
    """The token files of another program in a directory, or None. Raises DataError if they cannot be read."""
    try:
        files = sorted(path for path in directory.glob("*.bin") if path.is_file())
        if any(is_shard(path) for path in files):
            return None
        has_headers = any(map(_has_magic, files))
    except OSError as error:
        raise DataError(f"{directory}: cannot be read ({error.strerror})") from error
    train, val = (
        tuple(path for path in files if (part in path.stem.lower() if has_headers else path.stem == part))
        for part in ("train", "val")
    )
    return ForeignFiles(directory, train, val, has_headers) if train else None


def read_foreign(files: ForeignFiles, tokenizer: Tokenizer) -> tuple[TokenData, TokenData]:
    """Training and validation tokens. The characters of the latter are counted.

    Raises DataError, naming the file, for one that is broken or has ids that the tokenizer lacks.
    """
    if tokenizer.vocab_size > 2**16:
        raise InvalidRequestError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the ids in {files.directory} are uint16", "tokenizer"
        )
    end = tokenizer.end_of_text_id
    train, val = (
        tuple(_open(path, tokenizer, has_header=files.has_headers) for path in part)
        for part in (files.train, files.val)
    )
    return TokenData(train, end), TokenData(_counted(val, tokenizer) or (_nothing(files.directory, tokenizer),), end)


def characters_of_meta(path: Path) -> Tokenizer:
    """The tokenizer that nanoGPT's meta.pkl describes, without running anything that is in the file.

    `<|endoftext|>` gets the id after the last character. Raises DataError, naming the file, if it says something else.
    """
    try:
        if path.stat().st_size > _LARGEST_META:
            raise ValueError("it is too large")
        meta: Any = read_plain_pickle(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not read, {error}; name the tokenizer with --tokenizer") from error
    names = meta.get("itos") if isinstance(meta, dict) else None
    characters = [names.get(i) for i in range(len(names))] if isinstance(names, dict) else []
    single = [one for one in characters if isinstance(one, str) and len(one) == 1]
    if not single or len(single) != len(characters) or sorted(set(single)) != single:
        raise DataError(f"{path}: does not list characters by code point; name the tokenizer with --tokenizer")
    try:
        return Tokenizer.characters(single)
    except TokenizerError as error:
        raise DataError(f"{path}: {error}; name the tokenizer with --tokenizer") from error


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == LLM_C_MAGIC.to_bytes(4, "little")


def _open(path: Path, tokenizer: Tokenizer, *, has_header: bool) -> Shard:
    offset = LLM_C_HEADER_BYTES if has_header else 0
    try:
        with path.open("rb") as file:
            head = file.read(offset)
            size = file.seek(0, 2)
            if size % 2 or size < offset:
                raise DataError(f"{path}: has {size} bytes, which are no uint16 ids; was it cut short?")
            count = (size - offset) // 2
            magic, version, said = struct.unpack_from("<3i", head) if has_header else (LLM_C_MAGIC, 1, count)
            if (magic, version, said) != (LLM_C_MAGIC, 1, count):
                raise DataError(
                    f"{path}: its header says {magic}, version {version}, {said} tokens; "
                    f"expected {LLM_C_MAGIC}, version 1, {count} tokens"
                )
            header = ShardHeader("uint16", count, 0, tokenizer.vocab_size, tokenizer.fingerprint, _sample(path, size))
            return Shard(path, header, map_tokens(file, np.dtype(np.uint16), offset, count))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _sample(path: Path, size: int) -> str:
    """A hash by which files are told apart: of the size, and of the first, middle and last MiB."""
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for place in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
            file.seek(place)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _counted(shards: tuple[Shard, ...], tokenizer: Tokenizer) -> tuple[Shard, ...]:
    """The same shards, their characters counted: as many as there are bytes that begin one."""
    begins = [sum(byte & 0xC0 != 0x80 for byte in tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    if tokenizer.end_of_text_id is not None:
        begins[tokenizer.end_of_text_id] -= len(END_OF_TEXT)
    table = np.array(begins, dtype=np.int64)
    counted = []
    for shard in shards:
        blocks = range(0, len(shard), _BLOCK_TOKENS)
        characters = sum(int(table[shard.window(start, _BLOCK_TOKENS)].sum()) for start in blocks)
        header = ShardHeader(**{**vars(shard.header), "characters": characters})
        counted.append(Shard(shard.path, header, shard.tokens))
    return tuple(counted)


def _nothing(directory: Path, tokenizer: Tokenizer) -> Shard:
    """The validation tokens of a directory that has none."""
    header = ShardHeader("uint16", 0, 0, tokenizer.vocab_size, tokenizer.fingerprint, hashlib.sha256().hexdigest())
    return Shard(directory / "val.bin", header, np.empty(0, dtype=np.uint16))
