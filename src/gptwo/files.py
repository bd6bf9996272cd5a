"""Writing files so that a reader finds the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write in place of `path`: it takes that name, synced to disk, when the block ends without an error.

    A link stays a link, and what it leads to is replaced. Raises OSError as the file system does; `path` is then as it
    was, and nothing is left beside it. Only a process that is killed leaves something: `.NAME.XXXXXXXX.tmp`.
    """
    target = Path(os.path.realpath(path))
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
