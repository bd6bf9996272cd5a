"""What is done of a batch, on disk beside its output: OUT.parts, until OUT is whole.

batch.json says what the batch is: its input, model and parameters. part-KEY-NUMBER.jsonl are the answers of one part,
each written whole or not at all; KEY stands for what batch.json says, so that parts of different batches never mix.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptwo.batch.answering import Answer
from gptwo.batch.rows import to_line, write_parquet
from gptwo.batch.settings import digest_of
from gptwo.errors import DataError
from gptwo.files import only_holder, replace_file
from gptwo.options import shown

MANIFEST = "batch.json"
FORMAT = 1
_PART = re.compile(r"part-([0-9a-f]{12})-(\d{6,})\.jsonl")


@dataclass(frozen=True)
class Totals:
    """What some parts hold."""

    lines: int = 0
    errors: int = 0
    tokens: int = 0


def parts_of(out: Path) -> Path:
    """Where the parts of an output lie."""
    return out.with_name(out.name + ".parts")


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """What batch.json says, or None if there is none. Raises DataError for a broken one."""
    path = directory / MANIFEST
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DataError(f"{path}: is broken, or of another version of gptwo; start afresh with --restart")
    return values


@contextlib.contextmanager
def hold(out: Path, identity: Mapping[str, Any], *, restart: bool) -> Iterator[Parts]:
    """The parts of an output, for this process alone; those of an earlier run of the same batch are there.

    Raises DataError if another process holds them, if they are of another batch, or if they cannot be written.
    """
    directory = parts_of(out)
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(exist_ok=True)
            stack.enter_context(only_holder(directory / "lock"))
        except BlockingIOError as error:
            raise DataError(f"{out}: another process is working on it") from error
        except OSError as error:
            raise DataError(f"{directory}: cannot be written ({error.strerror})") from error
        parts = Parts(directory, digest_of(identity))
        try:
            _clear(out, directory, everything=restart)
            before = read_manifest(directory)
            if before is None:
                with replace_file(directory / MANIFEST) as file:
                    file.write((json.dumps({"format": FORMAT, **identity}, indent=2) + "\n").encode())
        except OSError as error:
            raise DataError(f"{directory}: cannot be written ({error.strerror})") from error
        if before is not None:
            check_same(directory, before, identity)
        try:
            yield parts
        except BaseException:
            if not parts.done():  # nothing is lost with them
                _discard(directory)
            raise


class Parts:
    """The parts of one batch."""

    def __init__(self, directory: Path, key: str) -> None:
        self.directory, self.key = directory, key

    def done(self) -> set[int]:
        """The numbers of the parts that are there."""
        found = map(_PART.fullmatch, os.listdir(self.directory))
        return {int(match[2]) for match in found if match is not None and match[1] == self.key}

    def totals(self, number: int) -> Totals:
        """What a part holds, by its first line."""
        with _path(self.directory, self.key, number).open("rb") as file:
            return Totals(**json.loads(file.readline()))

    def lines(self, count: int) -> Iterator[bytes]:
        """The rows of parts 0 to `count`, each as a line of JSON."""
        for number in range(count):
            with _path(self.directory, self.key, number).open("rb") as file:
                file.readline()
                yield from file

    def finish(self, out: Path, count: int, *, score: bool) -> None:
        """Write the output from parts 0 to `count`, whole or not at all, and clear the parts.

        Raises DataError if it cannot be written.
        """
        try:
            with replace_file(out) as file:
                if out.suffix.lower() == ".parquet":
                    write_parquet(file, self.lines(count), score=score)
                else:
                    file.writelines(self.lines(count))
        except OSError as error:
            raise DataError(f"{out}: cannot be written ({error.strerror}); its parts are kept") from error
        _discard(self.directory)


def part_of(answers: Sequence[Answer]) -> bytes:
    """A part as it is stored: its totals, then the rows of its answers."""
    totals = Totals(len(answers), sum(a.error is not None for a in answers), sum(a.tokens for a in answers))
    return b"".join([json.dumps(vars(totals)).encode() + b"\n", *(to_line(answer.row) for answer in answers)])


def write_part(directory: Path, key: str, number: int, data: bytes) -> None:
    """Write a part, whole or not at all. Raises DataError."""
    path = _path(directory, key, number)
    try:
        with replace_file(path) as file:
            file.write(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def check_same(directory: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DataError, naming what differs, if a batch is not the one that was begun."""
    for name in sorted(before.keys() | now.keys() - {"format"}):
        old, new = before.get(name), now.get(name)
        if name == "format" or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            check_same(directory, old, new)
        wrong = {"input_sha256": "another input", "weights_sha256": "another model"}.get(
            name, f"{name} {_said(old)}, not {_said(new)}"
        )
        raise DataError(
            f"{directory.name.removesuffix('.parts')} was begun with {wrong}: give the same to go on, or --restart to "
            "start afresh"
        )


def _said(value: object) -> str:
    return "by default" if value is None else shown(value)


def _path(directory: Path, key: str, number: int) -> Path:
    return directory / f"part-{key}-{number:06}.jsonl"


def _clear(out: Path, directory: Path, *, everything: bool) -> None:
    """Delete what a process that was killed left half written, and with `everything` what it had done too."""
    for path in out.parent.glob(f".{_literal(out.name)}.*.tmp"):
        path.unlink(missing_ok=True)
    for path in out.parent.glob(f".{_literal(directory.name)}.*.old"):
        shutil.rmtree(path, ignore_errors=True)
    for path in directory.iterdir():
        if path.name != "lock" and (everything or path.name.endswith(".tmp")):
            path.unlink(missing_ok=True)


def _discard(directory: Path) -> None:
    """Delete the parts; under another name first, so that there are never some of them."""
    old = directory.with_name(f".{directory.name}.{os.urandom(4).hex()}.old")
    with contextlib.suppress(OSError):  # they are in nobody's way, and the next run deletes them
        directory.rename(old)
        shutil.rmtree(old)


def _literal(name: str) -> str:
    """A name as a pattern that matches nothing else."""
    return re.sub(r"([*?\[])", r"[\1]", name)
