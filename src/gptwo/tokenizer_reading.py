"""The files that a tokenizer is read from: found in a directory, and made into an instance of `tokenizers`.

`wrap` makes of an instance what the caller wants. It is called while the file is known, so that an error which it
raises names the file as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gptwo.errors import CheckpointError, TokenizerError, one_line
from gptwo.tokenizer_kinds import (
    BYTE_OF_CHARACTER,
    END_OF_TEXT,
    add_end_of_text,
    byte_level_bpe,
    single_characters,
    with_byte_level,
)

if TYPE_CHECKING:
    import tokenizers

Wrapped = TypeVar("Wrapped")

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
GGUF_SUFFIX = ".gguf"

# What few models need, `vocabulary_files` and `gguf_file`, is imported where it is used.


def has_tokenizer(path: Path) -> bool:
    """See `Tokenizer.exists`."""
    if path.name.endswith(GGUF_SUFFIX):
        return path.is_file()
    return (path / "tokenizer.json").is_file() or _other_files(path) is not None


def read_tokenizer(path: Path, wrap: Callable[[tokenizers.Tokenizer], Wrapped]) -> Wrapped:
    """A directory's or a file's tokenizer; see `Tokenizer.load`."""
    if os.path.isdir(path):  # as Path.is_dir, but no error for a name that is too long
        if not (path / "tokenizer.json").is_file():
            files = _other_files(path)
            if files is None:
                raise TokenizerError(f"{path}: holds no tokenizer.json, and no vocab.json with merges.txt")
            return _read_pair(*files, wrap) if len(files) == 2 else _read_bytes(files[0], wrap)
        path = path / "tokenizer.json"
    elif not os.path.isfile(path):
        raise TokenizerError(f"{path}: no such file or directory, so no tokenizer")
    elif path.name.endswith(GGUF_SUFFIX):
        return _read_gguf(path, wrap)
    elif path.name.endswith(".bin"):
        return _read_bytes(path, wrap)
    return _read_json(path, wrap)


def _other_files(directory: Path) -> tuple[Path, ...] | None:
    """What to read in a directory without a tokenizer.json."""
    from gptwo.vocabulary_files import LLMC_FILE, RAW_FILE

    for names in (*PAIRS, (LLMC_FILE,), (RAW_FILE,)):
        files = tuple(directory / name for name in names)
        if all(file.is_file() for file in files):
            return files
    return None


def _read_json(path: Path, wrap: Callable[[tokenizers.Tokenizer], Wrapped]) -> Wrapped:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror})") from error

    def read() -> Wrapped:
        import tokenizers

        return wrap(tokenizers.Tokenizer.from_buffer(data))

    return _guarded(read, path, "a tokenizer.json")


def _read_pair(vocabulary: Path, merges: Path, wrap: Callable[[tokenizers.Tokenizer], Wrapped]) -> Wrapped:
    def read() -> tuple[tokenizers.Tokenizer, Wrapped]:
        import tokenizers
        from tokenizers import models

        inner = tokenizers.Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
        if inner.token_to_id(END_OF_TEXT) is not None:
            add_end_of_text(inner)
        return inner, wrap(with_byte_level(inner))

    inner, wrapped = _guarded(read, vocabulary, "a vocabulary with its merges.txt")
    more = vocabulary.with_name("added_tokens.json")
    if not more.is_file():
        return wrapped

    def read_more() -> Wrapped:
        from tokenizers import AddedToken

        ids = json.loads(more.read_bytes())
        for token in sorted(ids, key=ids.__getitem__):
            inner.add_tokens([AddedToken(token, normalized=False)])
            if inner.token_to_id(token) != ids[token]:
                raise TokenizerError(f"the token {token!r} has id {ids[token]}, not the next free one")
        return wrap(inner)

    return _guarded(read_more, more, "the tokens added to vocab.json")


def _read_bytes(path: Path, wrap: Callable[[tokenizers.Tokenizer], Wrapped]) -> Wrapped:
    from gptwo.vocabulary_files import characters_of, merges_of, read_vocabulary

    tokens, end = read_vocabulary(path)
    merges = merges_of(tokens, end)
    if merges is None:
        characters = characters_of(tokens, end)
        if characters is None:
            raise TokenizerError(
                f"{path}: its tokens are not of GPT-2's kind: 256 bytes, and each other one merged of two before it"
            )
        return _guarded(lambda: wrap(single_characters(characters, end is not None)), path, "a vocabulary")
    character_of_byte = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}
    names = ["".join(map(character_of_byte.__getitem__, token)) for token in tokens]
    if end is not None:
        names[end] = END_OF_TEXT
    pairs = [(names[left], names[right]) for left, right in merges]
    special = [] if end is None else [end]
    return _guarded(lambda: wrap(byte_level_bpe(names, pairs, special)), path, "a vocabulary")


def _read_gguf(path: Path, wrap: Callable[[tokenizers.Tokenizer], Wrapped]) -> Wrapped:
    from gptwo.gguf_file import read_gguf_vocabulary

    try:
        names, pairs, special, added = read_gguf_vocabulary(path)
    except CheckpointError as error:
        raise TokenizerError(str(error).removeprefix("checkpoint ")) from error
    return _guarded(lambda: wrap(byte_level_bpe(names, pairs, special, added)), path, "a GGUF with a tokenizer")


def _guarded(read: Callable[[], Wrapped], path: Path, expected: str) -> Wrapped:
    """`read()`, with whatever the library makes of a broken file as a TokenizerError that names it."""
    try:
        return read()
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from error
    except BaseException as error:
        # A panic in the library's Rust derives from BaseException, and has no importable name.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{path}: not {expected} that can be read ({one_line(error)})") from error
