"""The signals that ask a server to end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def end_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have `handler` told of SIGINT and SIGTERM within the block, in the main thread; elsewhere nothing changes."""
    try:
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone has signals
        yield
        return
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
