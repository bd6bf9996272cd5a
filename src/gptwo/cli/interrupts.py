"""What Ctrl-C means while prompts are read and texts generated."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Literal, TypeVar

Item = TypeVar("Item")


class Interrupts:
    """Ctrl-C for a loop that goes on after it: a context manager, of use in the main thread only.

    It raises KeyboardInterrupt where the loop is ready for one, and nowhere else, however often it is pressed; a stream
    ends between two of its items, so that no step of the engine is cut short, unless Ctrl-C is pressed again.
    """

    def __init__(self) -> None:
        """Nothing is ready for Ctrl-C yet."""
        self._place: Literal["elsewhere", "ready", "streaming"] = "elsewhere"
        self._stop = False
        self._in_charge = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupts:
        """Take over from the handler before."""
        if self._in_charge:
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back to the handler before."""
        if self._in_charge:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Within this block Ctrl-C raises KeyboardInterrupt, once."""
        try:
            self._place = "ready"
            yield
        finally:
            self._place = "elsewhere"

    def until_pressed(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items until Ctrl-C."""
        self._stop = False
        try:
            self._place = "streaming"
            for item in items:
                yield item
                if self._stop:
                    return
        finally:
            self._place = "elsewhere"

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self._place == "streaming" and not self._stop:
            self._stop = True
        elif self._place != "elsewhere":
            self._place = "elsewhere"
            raise KeyboardInterrupt
