"""The input: a file of lines that is never held in memory, cut into parts that are answered one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gptwo.errors import DataError

LONGEST_LINE = 64 * 2**20  # bytes
MOST_PARTS = 4096
LARGEST_PART = 256  # lines, unless there would be more than MOST_PARTS
PARTS_PER_PROCESS = 8  # at least, if there are lines enough, so that all end at about the same time
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Part:
    """Lines that follow each other."""

    number: int
    first: int
    """The index of its first line; lines that are blank have none."""
    lines: int
    offset: int
    """Where it begins in the file, in bytes."""
    line_number: int
    """The number of that line in the file, blank ones counted, from 1."""


@dataclass(frozen=True)
class Line:
    """A line of the input."""

    index: int
    """Its place among the lines that are not blank, from 0."""
    number: int
    """Its number in the file, blank lines counted, from 1."""
    data: bytes | None
    """None if it is longer than LONGEST_LINE."""


@dataclass(frozen=True)
class Source:
    """An input as it was when it was looked through."""

    path: Path
    lines: int
    sha256: str
    part_lines: int
    parts: tuple[Part, ...]
    stamp: tuple[int, int, int]
    """What changes when somebody writes to the file; see `stamp_of`."""


def scan(path: Path, processes: int, part_lines: int | None = None) -> Source:
    """Look a file through once: how many lines it has, and where its parts begin.

    part_lines: lines of a part (a power of two); None chooses. Raises DataError for what is no file that can be read.
    """
    digest = hashlib.sha256()
    marks: list[tuple[int, int]] = []  # (offset, number) of each line whose index is a multiple of `every`
    every, count = part_lines or 1, 0
    try:
        stamp = stamp_of(path)
        with path.open("rb") as file:
            for line, offset in _lines(file, 0, 1, digest.update):
                if count % every == 0:
                    marks.append((offset, line.number))
                    if part_lines is None and len(marks) > MOST_PARTS:  # so that their number stays bounded
                        marks, every = marks[::2], 2 * every
                count += 1
        if stamp_of(path) != stamp:
            raise changed(path)
    except OSError as error:
        raise unreadable(path, error) from error
    size = part_lines or max(every, _power_of_two(min(LARGEST_PART, count // (PARTS_PER_PROCESS * processes))))
    marks = marks[:: size // every]
    parts = tuple(
        Part(i, i * size, min(size, count - i * size), offset, number) for i, (offset, number) in enumerate(marks)
    )
    return Source(path, count, digest.hexdigest(), size, parts, stamp)


def read_part(path: Path, part: Part) -> Iterator[Line]:
    """The lines of a part. Raises DataError if there are fewer than there were, or the file cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(part.offset)
            end = part.first + part.lines
            for line, _ in _lines(file, part.first, part.line_number):
                yield line
                if line.index + 1 == end:
                    return
    except OSError as error:
        raise unreadable(path, error) from error
    raise changed(path)


def stamp_of(path: Path) -> tuple[int, int, int]:
    """Size, time of the last change and number of a file; OSError as the file system raises it."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


def check_unchanged(path: Path, stamp: tuple[int, int, int]) -> None:
    """Raise DataError if the file is not the one that had this stamp."""
    try:
        found = stamp_of(path)
    except OSError as error:
        raise unreadable(path, error) from error
    if found != stamp:
        raise changed(path)


def changed(path: Path) -> DataError:
    """The error of an input that is not what it was."""
    return DataError(f"{path}: was changed while it was being answered; start again with --restart")


def unreadable(path: Path, error: OSError) -> DataError:
    """The error of an input that cannot be read."""
    return DataError(f"{path}: cannot be read ({error.strerror})")


def _lines(
    file: BinaryIO, index: int, number: int, on_bytes: Callable[[bytes], object] = len
) -> Iterator[tuple[Line, int]]:
    """The lines that are not blank from here on, each with its offset. on_bytes: is told all that is read."""
    offset = file.tell()
    while data := file.readline(LONGEST_LINE):
        on_bytes(data)
        size, whole = len(data), len(data) < LONGEST_LINE or data.endswith(b"\n")
        rest = b"" if whole else data
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE)
            on_bytes(rest)
            size += len(rest)
        if offset == 0:
            data = data.removeprefix(BYTE_ORDER_MARK)
        if not whole or data.strip():
            yield Line(index, number, data if whole else None), offset
            index += 1
        offset += size
        number += 1


def _power_of_two(count: int) -> int:
    """The largest that is not above a count; 1 for a count of 0."""
    return 1 << max(0, count.bit_length() - 1)
