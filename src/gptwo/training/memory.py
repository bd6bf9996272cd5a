"""What a training step frees, the next one needs again: keep it meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Have the C library keep large blocks that are freed, and give them back to the system at the end.

    By itself it returns each to the system at once, which fills every page with zeros again: for the gigabyte of
    gradients and activations that a step of a small GPT-2 needs, that is a tenth of its time. Does nothing where the C
    library isn't glibc. Source: mallopt(3).
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, malloc_trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):
        yield
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, _DEFAULT_MMAP_MAX)
        mallopt(_M_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
        malloc_trim(0)
