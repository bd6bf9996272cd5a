"""Documents, as text files, JSONL, CSV and Parquet hold them. No file is read whole: it may exceed memory."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from gptwo.errors import DataError, MissingDependencyError, nearest_name, one_line
from gptwo.options import shown

BLOCK_BYTES = 1 << 16
LONGEST_RECORD = 1 << 28  # bytes of a line of JSONL, characters of a field of CSV
PARQUET_ROWS = 256  # read at a time
COMPRESSED = (".gz", ".zst", ".zstd")
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}

Tell = Callable[[float], None]
"""Told which share of a file is read."""


@dataclass(frozen=True)
class Fields:
    """Which fields of a record are read."""

    text: str = "text"
    """The text, all of which is learned; with a prompt, the completion."""
    prompt: str | None = None
    """What stands before it and is read but not learned."""

    @property
    def names(self) -> tuple[str, ...]:
        """The prompt's first."""
        return (self.text,) if self.prompt is None else (self.prompt, self.text)


@dataclass(frozen=True)
class Document:
    """One document of a file."""

    record: int
    """Its place in the file, from 0; records that hold no text count too."""
    blocks: Iterable[str]
    """Its text in parts, to be read before the next document is asked for."""
    prompt: str | None = None
    """What comes before the text and is not to be learned."""
    place: str = ""
    """Its file and where in it, for messages."""


def kind_of(name: str) -> str:
    """What a file of this name holds: text, jsonl, csv or parquet."""
    return KINDS.get(suffix_of(name), "text")


def suffix_of(name: str) -> str:
    """The end of a file's name without a compression's, in lower case. Example: ".txt" of "Play.TXT.gz"."""
    lower = name.lower()
    for suffix in COMPRESSED:
        lower = lower.removesuffix(suffix)
    return Path(lower).suffix


def read_documents(path: Path, name: str, fields: Fields, first: int, tell: Tell) -> Iterator[Document]:
    """The documents of a file from record `first` on; records without text are left out.

    Raises DataError, naming the file and where in it, for what cannot be read, and MissingDependencyError for Parquet
    and zstd without pyarrow.
    """
    kind = kind_of(name)
    if kind == "jsonl":
        return _read_jsonl(path, fields, first, tell)
    if kind == "csv":
        return _read_csv(path, fields, first, tell, "\t" if suffix_of(name) == ".tsv" else ",")
    if kind == "parquet":
        return _read_parquet(path, fields, first, tell)
    return iter([Document(0, _read_text(path, tell), place=str(path))] if first == 0 else [])


def _read_text(path: Path, tell: Tell) -> Iterator[str]:
    """A file in UTF-8 in blocks, its line ends as they are."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done, found = 0, False
    with _opened(path, tell) as stream:
        while True:
            block = stream.read(BLOCK_BYTES)
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                place = done - waiting + error.start
                raise DataError(f"{path}: not UTF-8 text (byte {place}); convert it first") from error
            done += len(block)
            if text:
                found = True
                yield text
            if not block:
                break
    if not found:
        raise DataError(f"{path}: holds no text")


def _read_jsonl(path: Path, fields: Fields, first: int, tell: Tell) -> Iterator[Document]:
    with _opened(path, tell) as stream:
        number = -1
        while line := stream.readline(LONGEST_RECORD):
            number += 1
            place = f"{path} line {number + 1}"
            if len(line) == LONGEST_RECORD and not line.endswith(b"\n"):
                raise DataError(f"{place}: is longer than {LONGEST_RECORD:,} bytes; is this JSONL?")
            if number < first or not line.strip():
                continue
            try:
                record = json.loads(line.removeprefix(codecs.BOM_UTF8) if number == 0 else line)
                if not isinstance(record, dict):
                    raise ValueError(f"expected an object such as {{{fields.text!r}: ...}}")
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: not a record of JSON ({one_line(error)})") from error
            document = _document(record, fields, number, place)
            if document is not None:
                yield document


def _read_csv(path: Path, fields: Fields, first: int, tell: Tell, delimiter: str) -> Iterator[Document]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))
    with _opened(path, tell) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            missing = [name for name in fields.names if name not in header]
            if missing:
                raise DataError(f"{path}: has no column {missing[0]!r}{nearest_name(missing[0], header)}")
            for number, row in enumerate(row for row in rows if row):
                if len(row) != len(header):
                    raise DataError(f"{path} line {rows.line_num}: has {len(row)} fields, the header {len(header)}")
                if number >= first:
                    place = f"{path} line {rows.line_num}"
                    document = _document(dict(zip(header, row, strict=True)), fields, number, place)
                    if document is not None:
                        yield document
        except csv.Error as error:
            raise DataError(f"{path} line {rows.line_num}: not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text (near line {rows.line_num + 1}); convert it first") from error


def _read_parquet(path: Path, fields: Fields, first: int, tell: Tell) -> Iterator[Document]:
    pyarrow = _pyarrow(path)
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            for name in fields.names:
                if name not in columns:
                    raise DataError(f"{path}: has no column {name!r}{nearest_name(name, columns)}")
            number = 0
            groups: list[int] = []
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if not groups and number + rows <= first:
                    number += rows
                else:
                    groups.append(group)
            for batch in file.iter_batches(PARQUET_ROWS, row_groups=groups, columns=list(fields.names)):
                for record in batch.to_pylist():
                    document = _document(record, fields, number, f"{path} row {number}") if number >= first else None
                    number += 1
                    tell(number / file.metadata.num_rows)
                    if document is not None:
                        yield document
    except (OSError, pyarrow.ArrowException, ValueError, OverflowError) as error:  # the last of dates that are none
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from error


def _document(record: Mapping[str, Any], fields: Fields, number: int, place: str) -> Document | None:
    """The document of a record, or None if it holds no text."""
    values = []
    for name in fields.names:
        if name not in record:
            raise DataError(f"{place}: has no field {name!r}{nearest_name(name, map(str, record))}")
        value = record[name]
        if value is not None and not isinstance(value, str):
            raise DataError(f"{place}: its {name!r} is {shown(value)}, expected text")
        try:
            (value or "").encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: its {name!r} is not Unicode (a lone surrogate)") from error
        values.append(value or "")
    if not values[-1]:
        return None
    return Document(number, (values[-1],), None if fields.prompt is None else values[0], place)


@contextmanager
def _opened(path: Path, tell: Tell) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked, as a stream that tells how far it is."""
    try:
        with path.open("rb") as raw:
            size = max(1, path.stat().st_size)
            counted = io.BufferedReader(_Counted(raw, lambda place: tell(place / size)), BLOCK_BYTES)
            suffix = path.suffix.lower()
            if suffix == ".gz":
                with gzip.GzipFile(fileobj=counted) as unpacked:
                    yield unpacked  # type: ignore[misc]  # which reads as a BinaryIO does
            elif suffix in COMPRESSED:
                with _pyarrow(path).CompressedInputStream(counted, "zstd") as unpacked:
                    yield io.BufferedReader(unpacked, BLOCK_BYTES)
            else:
                yield counted
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({_reason(error)})") from error


class _Counted(io.RawIOBase):
    """A file that tells its place at each reading."""

    def __init__(self, raw: BinaryIO, on_place: Callable[[int], None]) -> None:
        self._raw, self._on_place = raw, on_place

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        buffer[: len(data)] = data
        self._on_place(self._raw.tell())
        return len(data)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or one_line(error) or type(error).__name__


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading it needs pyarrow: pip install '.[batch]' in gptwo's checkout"
        ) from error
    return pyarrow
