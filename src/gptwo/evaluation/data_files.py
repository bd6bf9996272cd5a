"""Where the data of a measure comes from, and reading it: a mistake in a file is one sentence with its line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptwo.errors import DataError, DownloadError, one_line
from gptwo.files import decode_utf8


@dataclass(frozen=True)
class Source:
    """Where others publish a file."""

    name: str
    """The file's name."""
    address: str
    """Where a person finds it."""
    repository: str | None = None
    """The data set on the hub that holds it, if one does."""


@dataclass(frozen=True)
class DataFile:
    """A file that was read."""

    name: str
    sha256: str
    text: str


def read_file(path: Path) -> DataFile:
    """A whole text file. Raises DataError, naming file and line, if it cannot be read or is not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_file(data, str(path))


def decode_file(data: bytes, name: str) -> DataFile:
    """The bytes of a text file as one that was read. Raises DataError, naming file and line, for what is not UTF-8."""
    return DataFile(name, hashlib.sha256(data).hexdigest(), decode_utf8(data, name))


def json_lines(file: DataFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file that has one on each line, each with the place it stands in; blank lines have none."""
    for number, line in enumerate(file.text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{file.name} line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON ({one_line(error)})") from error
        if not isinstance(value, dict):
            raise DataError(f"{place}: expected a JSON object")
        yield place, value


def text_field(value: dict[str, Any], name: str, place: str) -> str:
    """A field that holds text which is Unicode."""
    found = value.get(name)
    if not isinstance(found, str):
        raise DataError(f'{place}: expected text as "{name}"')
    return checked_text(found, place)


def checked_text(text: str, place: str) -> str:
    """The text, if no half of a surrogate pair is in it: JSON can spell that, and no tokenizer reads it."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{place}: the text holds a lone surrogate")
    return text


def fetch(source: Source, *, progress: bool = False) -> Path:
    """The file's path in the hub's cache, downloaded if it is not there.

    Raises DownloadError, which says where the file is to be had and how to name it, if the hub does not have it or
    cannot be reached.
    """
    otherwise = f"download it from {source.address} and name it with --data"
    if source.repository is None:
        raise DownloadError(f"{source.name} is not fetched by itself: {otherwise}")
    from huggingface_hub import hf_hub_download

    from gptwo.checkpoint.hub import FAILURES, quiet

    with quiet(bars=progress):
        try:
            return Path(hf_hub_download(source.repository, source.name, repo_type="dataset"))
        except FAILURES as error:
            reason = one_line(error, 300) or type(error).__name__
            raise DownloadError(f"{source.name} could not be fetched ({reason}): {otherwise}") from error
