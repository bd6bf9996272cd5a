"""The directory that training reads: what `gptwo prepare` made, or what nanoGPT or llm.c did."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptwo.checkpoint import resolve
from gptwo.errors import DataError, DownloadError, ModelNotFoundError
from gptwo.tokenizer import Tokenizer
from gptwo.training.foreign import META, characters_of_meta, find_foreign, read_foreign
from gptwo.training.token_data import TokenData

DESCRIPTION = "data.json"
TOKENIZER = "tokenizer"
TRAIN, VAL = "train.bin", "val.bin"


@dataclass(frozen=True)
class PreparedData:
    """Tokens to train with and to validate with, and where they came from."""

    directory: Path
    texts: tuple[str, ...]
    """The names of what it was made from."""
    command: str
    """What makes the same again; "" if another program made it."""
    train: TokenData
    val: TokenData
    tokenizer: Tokenizer = field(compare=False, repr=False)
    documents: tuple[int, int] | None = None
    """In training and in validation; None if nobody counted them."""

    @classmethod
    def load(cls, directory: Path, *, tokenizer: str | None = None) -> PreparedData:
        """Open what `prepare` left, or a directory of nanoGPT's or llm.c's token files.

        tokenizer: for the latter, a model or directory that holds theirs; unless named, it is the one that lies in the
        directory, or that of `meta.pkl`, or else GPT-2's. What `prepare` made brings its own, and another is refused.

        Raises DataError, naming the file, if it is not all there, and what loading a tokenizer raises.
        """
        described = os.path.exists(directory / DESCRIPTION)  # as Path.exists, but no error for a name that is too long
        if not described and (found := _load_foreign(directory, tokenizer)) is not None:
            return found
        values = read_description(directory)
        try:
            texts, command = tuple(map(str, values["texts"])), str(values["command"])
            names = [values.get("train", [TRAIN]), values.get("val", [VAL])]
            if not all(isinstance(part, list) and part and all(map(_is_name, part)) for part in names):
                raise ValueError("no names of files")
            counts = values.get("documents")
            documents = None if counts is None else (int(counts[0]), int(counts[1]))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise _broken(directory) from error
        own = Tokenizer.load(directory / TOKENIZER)
        if tokenizer is not None and Tokenizer.load(resolve(tokenizer, weights=False)).fingerprint != own.fingerprint:
            raise DataError(f"{directory}: was not made with the tokenizer {tokenizer}, but with its own")
        train, val = (
            TokenData.open([directory / name for name in part], end_of_text_id=own.end_of_text_id) for part in names
        )
        for part in (train, val):
            if part.tokenizer != own.fingerprint:
                raise DataError(f"{part.path}: was not made with the tokenizer in {directory / TOKENIZER}")
        return cls(directory, texts, command, train, val, own, documents)


def read_description(directory: Path) -> dict[str, Any]:
    """What data.json says. Raises DataError if it is not there, or broken."""
    path = directory / DESCRIPTION
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); make the data with 'gptwo prepare'") from error
    except (ValueError, RecursionError) as error:
        raise _broken(directory) from error
    if not isinstance(values, dict):
        raise _broken(directory)
    return values


def _is_name(value: object) -> bool:
    """Whether a value is the name of a file in the same directory."""
    return isinstance(value, str) and Path(value).name == value


def _broken(directory: Path) -> DataError:
    return DataError(f"{directory / DESCRIPTION}: is broken; make the data again with 'gptwo prepare'")


def _load_foreign(directory: Path, name: str | None) -> PreparedData | None:
    files = find_foreign(directory)
    if files is None:
        return None
    if name is None and Tokenizer.exists(directory):
        tokenizer = Tokenizer.load(directory)
    elif name is None and not files.has_headers and (directory / META).is_file():
        tokenizer = characters_of_meta(directory / META)
    else:
        try:
            tokenizer = Tokenizer.load(resolve("gpt2" if name is None else name, progress=True, weights=False))
        except (DownloadError, ModelNotFoundError) as error:
            if name is not None:
                raise
            raise DownloadError(
                f"{directory}: holds ids of GPT-2's vocabulary, which is not here and could not be fetched; put its "
                "vocab.json and merges.txt there, or name a directory that has them with --tokenizer"
            ) from error
    train, val = read_foreign(files, tokenizer)
    return PreparedData(directory, (directory.resolve().name,), "", train, val, tokenizer)
