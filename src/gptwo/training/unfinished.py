"""Data that is being made: OUT/unfinished, until all of it is there.

`progress.json` says how far it is: which documents are done, and how much of the shards beside it is theirs. It is
replaced whole, after the shards were synced; what a shard has behind that is cut off when the work goes on. So a
process may be killed at any moment, and the end is the same to the byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gptwo.errors import DataError
from gptwo.files import only_holder, replace_file
from gptwo.training.encoding import Ids
from gptwo.training.shards import ShardWriter
from gptwo.training.units import Position

UNFINISHED = "unfinished"
PROGRESS = "progress.json"
LOCK = "lock"


@dataclass
class Written:
    """How far one part, training or validation, is written."""

    shards: int = 0
    """Whole ones."""
    count: int = 0
    """Tokens of the one at hand."""
    characters: int = 0
    documents: int = 0
    """In all shards."""


@dataclass
class Progress:
    """What progress.json says."""

    key: str
    """Of what is made from what; see `prepare`."""
    tokenizer: str
    """The fingerprint of the one beside it."""
    split_end: tuple[int, int] | None
    """See `Split`."""
    masked: bool
    position: Position = field(default_factory=Position)
    train: Written = field(default_factory=Written)
    val: Written = field(default_factory=Written)
    complete: bool = False

    @classmethod
    def load(cls, directory: Path, key: str) -> Progress | None:
        """What was made before of the same; None if that is nothing, or cannot be read. Raises OSError."""
        try:
            values = json.loads((directory / PROGRESS).read_bytes())
            if values["key"] != key:
                return None
            values["position"] = Position(**values["position"])
            values["train"], values["val"] = Written(**values["train"]), Written(**values["val"])
            end = values["split_end"]
            values["split_end"] = None if end is None else (int(end[0]), int(end[1]))
            made = cls(**values)
            numbers = [*vars(made.position).values(), *vars(made.train).values(), *vars(made.val).values()]
            return made if all(type(number) is int and number >= 0 for number in numbers) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
            return None

    def save(self, directory: Path) -> None:
        """Replace progress.json. Raises OSError."""
        with replace_file(directory / PROGRESS) as file:
            file.write((json.dumps(asdict(self), indent=2) + "\n").encode())


class PartWriter:
    """Writes the shards of one part, each begun when the one before has enough tokens."""

    def __init__(
        self, directory: Path, name: str, written: Written, *, vocab_size: int, tokenizer: str, masked: bool
    ) -> None:
        """Go on behind what is written; that must be there. Raises OSError, and ValueError if it is not."""
        self.directory, self.name = directory, name
        self.written = replace(written)
        self._about: dict[str, Any] = {"vocab_size": vocab_size, "tokenizer": tokenizer, "masked": masked}
        self._open()

    def _open(self) -> None:
        path = self.directory / shard_name(self.name, self.written.shards)
        self._file = path.open("r+b" if self.written.count else "w+b")
        try:
            self._writer = ShardWriter(self._file, count=self.written.count, **self._about)
        except BaseException:
            self._file.close()
            raise

    def append(self, ids: Ids | list[int], characters: int, *, learned: bool = True) -> None:
        """Write the ids of so many characters. Raises OSError."""
        self._writer.append(ids, learned=learned)
        self.written.count += len(ids)
        self.written.characters += characters

    def finish_shard(self, *, last: bool = False) -> None:
        """End the shard at hand, and begin the next one unless it is the last. Raises OSError."""
        self._writer.finish(self.written.characters)
        self.sync()
        self._file.close()
        self.written.shards += 1
        self.written.count = self.written.characters = 0
        if not last:
            self._open()

    def sync(self) -> None:
        """Have what was written on the disk. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let the file go, as it is."""
        with contextlib.suppress(OSError):  # of what is not needed
            self._file.close()


def shard_name(part: str, number: int) -> str:
    """The name of a shard among several. Example: train-00003.bin."""
    return f"{part}-{number:05d}.bin"


@contextlib.contextmanager
def hold(out: Path) -> Iterator[Path]:
    """The directory of unfinished data in `out`, made if need be, for this process alone.

    What was made is deleted again if it is left with nothing in it. Raises DataError if another process holds it, or
    it cannot be written.
    """
    directory = out / UNFINISHED
    try:
        ancestors = [path for path in (directory, *directory.parents) if not path.exists()]
        out.mkdir(parents=True, exist_ok=True)
        directory.mkdir(exist_ok=True)
        stack = contextlib.ExitStack()
        stack.enter_context(only_holder(directory / LOCK))
    except BlockingIOError as error:
        raise DataError(f"{out}: another process prepares data here") from error
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror})") from error
    with stack:
        try:
            yield directory
        finally:
            if os.listdir(directory) == [LOCK]:
                with contextlib.suppress(OSError):
                    (directory / LOCK).unlink()
                    for path in dict.fromkeys((directory, *ancestors)):
                        path.rmdir()


def clear(directory: Path) -> None:
    """Delete all that is in a directory of unfinished data, the progress first. Raises OSError."""
    (directory / PROGRESS).unlink(missing_ok=True)
    for path in directory.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
