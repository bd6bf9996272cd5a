"""Vocabularies as lists of bytes: what the formats "llmc" and "raw" hold of a tokenizer.

Both hold, for each id in order, a length byte and the bytes of the token. llm.c's file has a header before that: 256
int32, little-endian, of which the first four are used: a magic number, the version (1, or 2 with the fourth), V, and
the id of `<|endoftext|>`.

Neither holds merges. They follow from the bytes where, as in GPT-2, each merge made the token with the next id: the
two parts of a token are what is left when its bytes are merged by all the merges before it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gptwo.errors import TokenizerError

LLMC_FILE: Final = "gpt2_tokenizer.bin"
RAW_FILE: Final = "vocabulary.bin"
END_OF_TEXT: Final = b"<|endoftext|>"

_MAGIC: Final = 20240328
_HEADER: Final = struct.Struct("<4I1008x")  # 256 int32
_GPT2_END: Final = 50256  # of files of version 1, which don't say
_LONGEST: Final = 255  # bytes of a token
_MOST_BYTES: Final = 16_000_000  # of a file; GPT-2's has 0.4 million, and short tokens grow fivefold in Python


@dataclass(frozen=True)
class Vocabulary:
    """What other programs' formats write of a tokenizer."""

    tokens: Sequence[bytes]
    """The bytes of each id."""
    names: Sequence[str]
    """Each token as the tokenizer's own file spells it: printable stand-ins for bytes, but for added tokens."""
    merges: Sequence[tuple[str, str]]
    """In the order of their rank, by names; none for a tokenizer of characters."""
    special: frozenset[int]
    """The ids of special tokens, `<|endoftext|>` among them."""
    end_of_text_id: int | None
    kind: Literal["gpt2", "characters", "other"]
    """Whether text is cut and encoded as GPT-2 does it, character by character, or in some other way."""


def read_vocabulary(path: Path) -> tuple[list[bytes], int | None]:
    """The tokens of a file in llm.c's or the raw form, told apart by how they begin, and the id of `<|endoftext|>`.

    Raises TokenizerError, naming the file, for anything but such a file, whole and with nothing behind it.
    """
    try:
        with path.open("rb") as file:
            # Asking for more than there is would allocate it.
            data = file.read(min(os.fstat(file.fileno()).st_size, _MOST_BYTES) + 1)
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > _MOST_BYTES:
        raise TokenizerError(f"{path}: it has over {_MOST_BYTES} bytes, which no vocabulary has")
    if not data.startswith(_MAGIC.to_bytes(4, "little")):
        tokens = _tokens(path, data, 0)
        return tokens, tokens.index(END_OF_TEXT) if END_OF_TEXT in tokens else None
    if len(data) < _HEADER.size:
        raise TokenizerError(f"{path}: it has {len(data)} bytes, too few for llm.c's tokenizer file")
    _, version, count, end = _HEADER.unpack_from(data)
    if version not in (1, 2):
        raise TokenizerError(f"{path}: it is of version {version}; gptwo reads 1 and 2 of llm.c's tokenizer file")
    tokens = _tokens(path, data, _HEADER.size)
    if len(tokens) != count:
        raise TokenizerError(f"{path}: its header says {count} tokens, and {len(tokens)} are there")
    end = _GPT2_END if version == 1 else end
    # A tokenizer without such a token has to name some id.
    return tokens, end if end < count and tokens[end] == END_OF_TEXT else None


def _tokens(path: Path, data: bytes, start: int) -> list[bytes]:
    tokens: list[bytes] = []
    while start < len(data):
        if not data[start]:
            raise TokenizerError(f"{path}: token {len(tokens)} in it is empty")
        begin, start = start + 1, start + 1 + data[start]
        tokens.append(data[begin:start])
    if start != len(data):
        raise TokenizerError(f"{path}: it is cut short, in token {len(tokens) - 1}")
    return tokens


def vocabulary_bytes(vocabulary: Vocabulary, *, llmc: bool) -> bytes:
    """The content of a file in llm.c's or the raw form.

    Raises TokenizerError if reading it would not give the same tokenizer back.
    """
    tokens, end = vocabulary.tokens, vocabulary.end_of_text_id
    longest = max(map(len, tokens))
    if longest > _LONGEST:
        raise TokenizerError(f"a token has {longest} bytes, and this format has one byte for the length of each")
    if not vocabulary.special <= {end} or not _can_be_read_back(vocabulary):
        raise TokenizerError(
            "this format holds the bytes of tokens and no merges, and this tokenizer could not be made from those again"
        )
    # 0 for no `<|endoftext|>`: readers of ours look at its bytes.
    header = _HEADER.pack(_MAGIC, 2, len(tokens), 0 if end is None else end) if llmc else b""
    return header + b"".join(bytes([len(token)]) + token for token in tokens)


def _can_be_read_back(vocabulary: Vocabulary) -> bool:
    tokens, end = vocabulary.tokens, vocabulary.end_of_text_id
    if vocabulary.kind == "characters":
        return characters_of(tokens, end) is not None
    ids = {name: token_id for token_id, name in enumerate(vocabulary.names)}
    merges = [(ids[left], ids[right]) for left, right in vocabulary.merges]
    return vocabulary.kind == "gpt2" and merges_of(tokens, end) == merges


def characters_of(tokens: Sequence[bytes], end: int | None) -> list[str] | None:
    """The character of each token, if each is one, and no two the same, but for `<|endoftext|>` as the last; else None.

    end: the id of `<|endoftext|>`.
    """
    if end is not None and end != len(tokens) - 1:
        return None
    try:
        characters = [token.decode() for token in tokens[:end]]
    except UnicodeDecodeError:
        return None
    return characters if set(map(len, characters)) == {1} and len(set(characters)) == len(characters) else None


def merges_of(tokens: Sequence[bytes], end: int | None) -> list[tuple[int, int]] | None:
    """The merges that made each token of several bytes out of two with lower ids, as pairs of ids, in order.

    end: the id of `<|endoftext|>`, which no merge makes. None if there are no such merges: a token cannot be made of
    those before it, is there twice, or one of the 256 bytes is missing.

    Example: of the 256 bytes and then b"th", b"the", the merges are (116, 104), (256, 101).
    """
    ids = {token: token_id for token_id, token in enumerate(tokens) if token_id != end}
    if len(ids) != len(tokens) - (end is not None) or any(bytes([byte]) not in ids for byte in range(256)):
        return None
    merges = []
    for token, token_id in ids.items():
        if len(token) == 1:
            continue
        parts = _merged(token, ids, token_id)
        if len(parts) != 2:
            return None
        merges.append((ids[parts[0]], ids[parts[1]]))
    return merges


def _merged(token: bytes, ids: Mapping[bytes, int], below: int) -> list[bytes]:
    """The parts of a token after all the merges that make tokens with ids below one."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        lowest, at = below, -1
        for i in range(len(parts) - 1):
            found = ids.get(parts[i] + parts[i + 1], below)
            if found < lowest:
                lowest, at = found, i
        if at < 0:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
