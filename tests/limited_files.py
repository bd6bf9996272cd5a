"""A disk that is full, as a process without privileges can have it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """The system refuses to let this process's files grow beyond `size` bytes."""
    resource = pytest.importorskip("resource", reason="needs resource limits, which this system lacks")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
