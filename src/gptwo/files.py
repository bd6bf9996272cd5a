"""Writing files so that a reader finds the old one or the new one, never half of either; reading UTF-8."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gptwo.errors import DataError


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write in place of `path`: it takes that name, synced to disk, when the block ends without an error.

    A link stays a link, and what it leads to is replaced; a device or a pipe is written to. Raises OSError as the file
    system does; `path` is then as it was, and nothing is left beside it. Only a process that is killed leaves
    something: `.NAME.XXXXXXXX.tmp`.
    """
    target = Path(os.path.realpath(path))
    if target.is_char_device() or target.is_fifo():  # which root could replace, /dev/null too
        with target.open("wb") as device:
            yield device
        return
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    file = temporary.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def only_holder(path: Path) -> Iterator[None]:
    """Hold a file, made if need be, that one process can hold at a time; it is let go when the process ends, however.

    Raises BlockingIOError if another has it, OSError if it cannot be written. Where there are no such locks (Windows,
    some network drives) everyone has it.
    """
    with path.open("a") as lock:
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                pass
        yield


def decode_utf8(data: bytes, place: str) -> str:
    """Bytes as UTF-8, without a byte order mark; DataError says where they are something else."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{place}: not UTF-8 (byte 0x{data[error.start]:02X} in line {line}); convert it first"
        ) from error
